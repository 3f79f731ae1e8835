"""Makes objects of every kind that the readers have to know, prints where they are and what is in
them, and keeps them until its standard input is closed."""

import collections
import ctypes
import sys
import threading
import types

KEEP = []


def fact(*parts):
    print("\t".join(str(part) for part in parts))


def scalar(text):
    """As the reader shows it: what is not a Unicode scalar value is replaced."""
    return "".join("\ufffd" if 0xD800 <= ord(c) <= 0xDFFF else c for c in text)


def strings():
    class Text(str):
        pass

    samples = ["", "a", "threading", "x" * 300, "long " * 2000, "nul\0inside"]
    samples += ["\xe9", "caf\xe9", "\xe9" * 700]
    samples += ["\u4e2d\u6587", "mixed \u20ac and ascii", "\u0416" * 500]
    samples += ["\U0001f40d", "snake \U0001f40d!", "\U0001f40d" * 400]
    samples += ["\ud800", "a\udfffb", "\U0001f40d\udc00"]
    samples += ["".join(["bui", "lt ", str(len(samples))]), sys.intern("interned_name")]
    samples += [Text(sample) for sample in samples]
    for sample in samples:
        KEEP.append(sample)
        fact("str", id(sample), scalar(sample).encode("utf-8").hex() or "-")
    fact("notstr", id(KEEP))
    fact("notstr", id(b"bytes"))


def bytes_and_ints():
    for sample in (b"", b"x", bytes(range(256)) * 20):
        KEEP.append(sample)
        fact("bytes", id(sample), sample.hex() or "-")
    for sample in (0, 1, 255, 256, 2**15, 2**30 - 1, 2**30, 2**32, 2**45, 2**60, 2**63, 2**64 - 1,
                   threading.get_ident(), True):
        KEEP.append(sample)
        fact("int", id(sample), int(sample))
    for sample in (-1, -(2**40), 2**64, 2**200):
        KEEP.append(sample)
        fact("badint", id(sample))


def show_dict(d, *probes):
    KEEP.append(d)
    fact("dict", id(d), len(d), sum(map(id, d.values())) % 2**61, sum(map(id, d)) % 2**61)
    for key in probes:
        fact("item", id(d), key, id(d[key]) if key in d else 0)


def dicts():
    show_dict({}, "missing")
    show_dict({"one": 1}, "one", "two", "on", "onee")
    show_dict({"name%d" % i: str(i) for i in range(200)}, "name0", "name199", "name200")
    show_dict({"name%d" % i: str(i) for i in range(40000)}, "name39999", "x")
    show_dict({i: str(i) for i in range(1000)}, "missing")
    show_dict({1: "int", "text": object(), (1, 2): 3, None: 4, "\u20ac": 5}, "text", "missing")
    holes = {"k%d" % i: object() for i in range(50)}
    for i in range(0, 50, 3):
        del holes["k%d" % i]
    show_dict(holes, "k0", "k1", "k49")
    show_dict(collections.OrderedDict(a=1, b=2), "a", "b", "c")
    show_dict(collections.defaultdict(list, first=[1]), "first", "second")
    show_dict(sys.modules, "sys", "threading", "collections", "no.such.module")
    show_dict(globals(), "KEEP", "strings", "nothing")


class Plain:
    def __init__(self):
        self.first = "1"
        self.second = object()


class Late:
    pass


class Base:
    base = 1


class Derived(Base, Plain):
    def __init__(self):
        super().__init__()
        self.third = [3]


class Slotted:
    __slots__ = ("slot", "__dict__")


class Fault(Exception):
    pass


class Items(list):
    pass


class Table(dict):
    pass


class Spot(threading.Thread):
    def run(self):
        pass


def show_attributes(o, *names):
    KEEP.append(o)
    for name in names:
        namespace = object.__getattribute__(o, "__dict__") if name.startswith("!") else None
        name = name.lstrip("!")
        present = name in namespace if namespace is not None else hasattr(o, name)
        fact("attr", id(o), name, id(getattr(o, name)) if present else 0)


def attributes():
    show_attributes(Plain(), "first", "second", "third")
    show_attributes(Derived(), "first", "third")
    plain = Plain()
    plain.__dict__["in_dict"] = object()
    show_attributes(plain, "first", "second", "in_dict", "!missing")
    plain = Plain()
    KEEP.append(plain.__dict__)  # a dict that shares with the object
    plain.second = "changed"
    show_attributes(plain, "first", "second", "third")
    plain = Plain()
    del plain.first
    show_attributes(plain, "first", "second")
    plain = Plain()
    plain.__dict__ = {"other": object()}
    show_attributes(plain, "other", "first")
    many = Late()
    show_attributes(many, "nothing_yet")
    many = Late()
    for i in range(60):
        setattr(many, "a%d" % i, object())
    show_attributes(many, "a0", "a29", "a30", "a59", "b")
    backwards = Late()
    for i in reversed(range(5)):
        setattr(backwards, "a%d" % i, object())
    show_attributes(backwards, "a0", "a4", "a5")
    slotted = Slotted()
    slotted.slot, slotted.free = "s", object()
    show_attributes(slotted, "free", "!missing")
    fault = Fault("x")
    fault.detail = object()
    show_attributes(fault, "detail", "missing")
    items = Items([1])
    items.tag = object()
    show_attributes(items, "tag", "missing")
    table = Table(a=1)
    table.tag = object()
    show_attributes(table, "tag", "missing")
    show_attributes(threading.current_thread(), "_name", "_ident", "missing")
    spot = Spot(name="spot")
    show_attributes(spot, "_name", "missing")
    renamed = threading.Thread(name="before")
    renamed.name = "after " + "\u20ac"
    show_attributes(renamed, "_name")
    function = types.SimpleNamespace(field=object())
    show_attributes(function, "field", "missing")


def modules():
    fact("module", id(sys.modules), "threading", id(threading))
    fact("module", id(sys.modules), "nothing", 0)
    fact("global", id(threading), "_active", id(threading._active))
    fact("global", id(threading), "_nothing", 0)


def runtime():
    """Where the runtime is, and what the layout must lead to."""
    state = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
    fact("runtime", state, id(sys.modules), threading.get_ident())


fact("version", *sys.version_info[:3], sys.abiflags)
strings()
bytes_and_ints()
dicts()
attributes()
modules()
runtime()
print("ready", flush=True)
sys.stdin.read()
