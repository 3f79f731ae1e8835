"""Threads with names of every kind, in steps: what they are called, then renamed, then fewer, then
others in their places. Prints `thread <ident> <name in UTF-8, hex>` for each that lives."""

import sys
import threading
import ctypes


class Worker(threading.Thread):
    def __init__(self, name):
        super().__init__(name=name, daemon=True)
        self.go = threading.Event()
        self.started_for_real = threading.Event()
        self.extra = [name]

    def run(self):
        self.started_for_real.set()
        self.go.wait()


class Odd(Worker):
    """More attributes than a class shares with its instances."""

    def __init__(self, name):
        super().__init__(name)
        for i in range(50):
            setattr(self, "attribute_%d" % i, i)
        vars(self)["in_dict"] = 1


def start(kind, name):
    worker = kind(name)
    worker.start()
    worker.started_for_real.wait()
    return worker


def report(gone=()):
    runtime = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
    print("version", *sys.version_info[:3], sys.abiflags, sep="\t")
    print("modules\t%d\t%d" % (id(sys.modules), runtime))
    for thread in threading.enumerate():
        print("thread\t%d\t%s" % (thread.ident, thread.name.encode("utf-8").hex() or "-"))
    for ident in gone:
        print("gone\t%d" % ident)
    print("ready", flush=True)
    if not sys.stdin.readline():
        sys.exit()


workers = [start(Worker, "worker-%d" % i) for i in range(100)]
workers += [start(Odd, name) for name in ("caf\xe9", "\u4e2d\u6587 thread", "snake \U0001f40d", "", "a;b:c\n d 9")]
report()

for worker in workers[::3]:
    worker.name = "renamed " + worker.name
report()

gone = []
for worker in workers[::2]:
    gone.append(worker.ident)
    worker.go.set()
    worker.join()
del workers[::2]
report(gone)

# Their stacks, and so their idents, are used again.
workers += [start(Worker, "successor-%d" % i) for i in range(60)]
report()
