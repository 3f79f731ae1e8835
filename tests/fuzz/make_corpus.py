#!/usr/bin/env python3
"""Writes the corpora that are made rather than found: tests/fuzz/corpus/HARNESS/NAME.

Run it after a change of a harness's input, then look at what git shows. Files that are not named
here were found by libFuzzer or written by hand, and are left alone.
"""

import struct
from pathlib import Path

CORPUS = Path(__file__).resolve().parent / "corpus"


def write(harness: str, name: str, content: bytes) -> None:
    folder = CORPUS / harness
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


# ---- ELF objects ---------------------------------------------------------------------------------

DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_GNU_HASH, DT_VERSYM = 4, 5, 6, 10, 0x6FFFFEF5, 0x6FFFFFF0
PT_LOAD, PT_DYNAMIC, PT_NOTE = 1, 2, 4
HIDDEN = 0x8000


def gnu_hash(name: bytes) -> int:
    value = 5381
    for byte in name:
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value


def symbol(name: int, value: int, size: int = 8, kind: int = 1) -> bytes:
    return struct.pack("<IBBHQQ", name, 0x10 | kind, 0, 1, value, size)


class Object:
    """A shared object of a few hundred bytes: one segment, symbols, a hash table of either kind."""

    def __init__(self, size: int = 0x800):
        self.bytes = bytearray(size)
        self.segments: list[tuple[int, int, int, int]] = [(PT_LOAD, 7, 0, size)]
        self.dynamic: list[tuple[int, int]] = []

    def put(self, at: int, content: bytes) -> int:
        self.bytes[at : at + len(content)] = content
        return at

    def add_symbols(self, names: list[bytes], values: list[int], versions: list[int] | None = None) -> None:
        strings = b"\0" + b"".join(name + b"\0" for name in names)
        table = bytes(24)
        for name, value in zip(names, values):
            table += symbol(strings.index(b"\0" + name + b"\0") + 1, value)
        self.dynamic += [
            (DT_SYMTAB, self.put(0x200, table)),
            (DT_STRTAB, self.put(0x300, strings)),
            (DT_STRSZ, len(strings)),
        ]
        if versions:
            self.dynamic.append((DT_VERSYM, self.put(0x3C0, struct.pack(f"<{len(versions)}H", *versions))))

    def finish(self) -> bytes:
        if self.dynamic:
            entries = b"".join(struct.pack("<QQ", *entry) for entry in [*self.dynamic, (0, 0)])
            self.segments.append((PT_DYNAMIC, 6, self.put(0x140, entries), len(entries)))
        header = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
        header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, len(self.segments), 64, 0, 0)
        self.put(0, header)
        for i, (kind, flags, at, size) in enumerate(self.segments):
            self.put(64 + 56 * i, struct.pack("<IIQQQQQQ", kind, flags, at, at, at, size, size, 8))
        return bytes(self.bytes)


def python_object(version: int) -> bytes:
    """One that holds a runtime of a version that it states by Py_Version."""
    names = [b"_PyRuntime", b"Py_Version", b"PyCode_Type"]
    made = Object()
    made.add_symbols(names, [0x500, 0x480, 0x4C0])
    made.put(0x480, struct.pack("<Q", version))
    made.put(0x500, b"xdebugpy" + struct.pack("<QQ", version, 0))
    hashes = [gnu_hash(name) & ~1 for name in names]
    hashes[-1] |= 1
    made.dynamic.append((DT_GNU_HASH, made.put(0x400, struct.pack("<4IQ4I", 1, 1, 1, 6, 2**64 - 1, 1, *hashes))))
    return made.finish()


def python_by_text() -> bytes:
    """One whose version stands in its data only, as up to 3.10."""
    made = Object()
    made.add_symbols([b"_PyRuntime"], [0x500])
    made.dynamic.append((DT_HASH, made.put(0x400, struct.pack("<5I", 1, 2, 1, 0, 0))))
    made.put(0x700, b"\x003.8.18 (default, Nov 22 2024, 10:00:00) \n[GCC 12.2.0]\0")
    made.segments.append((PT_LOAD, 6, 0x600, 0x200))
    return made.finish()


def endless_chain() -> bytes:
    """A hash chain that leads back to itself, by way of a symbol that matches in a hidden version:
    each step reads four times."""
    made = Object()
    made.add_symbols([b"x"], [0x500], versions=[0, HIDDEN])
    made.dynamic.append((DT_HASH, made.put(0x400, struct.pack("<5I", 1, 2, 1, 0, 1))))
    return made.finish()


def elf_file(name: bytes) -> bytes:
    """A file with section headers: .symtab, .strtab, .PyRuntime."""
    names = b"\0.symtab\0.strtab\0.PyRuntime\0.shstrtab\0"
    strings = b"\0" + name + b"\0"
    symbols = bytes(24) + symbol(1, 0x1234)
    contents = [(b".symtab", 2, 0, symbols, 2, 24), (b".strtab", 3, 0, strings, 0, 0),
                (b".PyRuntime", 1, 2, bytes(16), 0, 0), (b".shstrtab", 3, 0, names, 0, 0)]
    body, headers, at = b"", bytes(64), 64
    for section, kind, flags, content, link, entry in contents:
        headers += struct.pack("<IIQQQQIIQQ", names.index(section), kind, flags, 0x1000, at, len(content),
                               link, 0, 8, entry)
        body += content
        at += len(content)
    header = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, at, 0, 64, 56, 0, 64, len(contents) + 1, 4)
    return header + body + headers


def write_elf() -> None:
    write("elf_fuzz", "image_endless_chain", b"\0" + endless_chain())
    write("elf_fuzz", "image_python", b"\0" + python_object(0x030B07F0))
    write("elf_fuzz", "file_symbol", b"\1" + elf_file(b"_PyRuntime"))
    write("elf_fuzz", "file_section", b"\1" + elf_file(b"other"))
    for minor in (11, 12, 13, 14, 15):
        write("locate_fuzz", f"version_3_{minor}", python_object(0x030001F0 | minor << 16))
    write("locate_fuzz", "version_text", python_by_text())
    write("locate_fuzz", "unknown_version", python_object(0x030063F0 | 99 << 16))
    write("locate_fuzz", "in_file", elf_file(b"_PyRuntime"))


# ---- unwind tables -------------------------------------------------------------------------------


def unwind(fde_program: bytes, cie_program: bytes = b"\x0c\x07\x08\x90\x01", stack: bytes = b"") -> bytes:
    """An object of one function, at 0x4000 of the object, and a thread in it."""
    tables = 0x1000

    def record(content: bytes) -> bytes:
        content += bytes(-(len(content) + 4) % 8)
        return struct.pack("<I", len(content)) + content

    # version 1, "zR", code alignment 1, data alignment -8, return address 16, encoding sdata4 pcrel
    cie = record(struct.pack("<I", 0) + b"\x01zR\0\x01\x78\x10\x01\x1b" + cie_program)
    frames = tables + 20
    fde_at = frames + len(cie)
    fde = record(struct.pack("<IiIB", len(cie) + 4, 0x4000 - (fde_at + 8), 0x1000, 0) + fde_program)
    header = struct.pack("<BBBBiIii", 1, 0x1B, 3, 0x3B, 16, 1, 0x4000 - tables, fde_at - tables)
    table = header + cie + fde + bytes(4)
    # the return address is code of the same function; then the stack ends
    stack = stack or struct.pack("<QQQQ", 0xC0DE << 48 | 0x4100, 0x57AC << 48 | 0x40, 0xC0DE << 48 | 0x4200, 0)
    return struct.pack("<HHQH", 0x4010, 0, 0x57AC << 48 | 0x10, len(table)) + table + stack


def write_unwind() -> None:
    write("unwind_fuzz", "frame_size", unwind(b"\x0e\x10"))  # def_cfa_offset 16
    # advance, def_cfa_offset, offset(rbp), def_cfa_register(rbp)
    write("unwind_fuzz", "frame_pointer", unwind(b"\x41\x0e\x10\x86\x02\x43\x0d\x06"))
    # def_cfa_expression: breg7+16
    write("unwind_fuzz", "expression", unwind(b"\x0f\x02\x77\x10"))
    # skip -3: jumps to itself for ever
    write("unwind_fuzz", "endless_expression", unwind(b"\x0f\x03\x2f\xfd\xff"))
    # expression(rbp): breg7+0, deref; remember_state, restore_state
    write("unwind_fuzz", "register_expression", unwind(b"\x0e\x10\x10\x06\x03\x77\x00\x06\x0a\x0b"))
    # def_cfa_expression: breg7+8, dup, bra +1, nop, const1u 8, plus
    write("unwind_fuzz", "branch", unwind(b"\x0f\x0a\x77\x08\x12\x28\x01\x00\x96\x08\x08\x22"))


# ---- images of a process's memory ----------------------------------------------------------------


def patch(where: int, how: int, what: int) -> bytes:
    return struct.pack("<HBBQ", where, how, 0, what)


def write_images() -> None:
    free_threaded = 0xF0  # see pick_row() in process_image.h
    rows = [(row, f"3_{8 + row}") for row in range(8)]
    rows += [(free_threaded + row, f"3_{13 + row}t") for row in range(3)]
    for row, name in rows:
        # By pointers to other places in the image, all over it: what then is read as what, is chance.
        crossed = b"".join(patch(0x20 + 0x98 * i, 4, 0x310 * i + row) for i in range(12))
        for harness in ("runtime_fuzz", "report_fuzz", "asyncio_fuzz"):
            write(harness, f"sane_{name}", bytes([row]))
            write(harness, f"crossed_{name}", bytes([row]) + crossed)
        for kind in range(3 if row < free_threaded else 0):
            write("greenlets_fuzz", f"sane_{name}_{kind}", bytes([row, kind]))
            write("greenlets_fuzz", f"crossed_{name}_{kind}", bytes([row, kind]) + crossed)
        steps = b"".join(
            struct.pack("<BBHI", what, 0, number, at)
            for what, number, at in (
                (0, 40, 0x600), (1, 0, 0), (3, 0, 0), (4, 0, 0), (2, 300, 0x40), (4, 0, 0), (5, 0, 0),
                (6, 64, 0x50), (7, 5000, 0x1F0), (8, 0, 0), (9, 1, 0), (7, 1, 0xFFFFFFFF),
            )
        )
        write("stack_fuzz", f"sane_{name}", bytes([row]))
        write("stack_fuzz", f"steps_{name}", bytes([row, 0]) + steps)
        write("stack_fuzz", f"crossed_{name}", bytes([row, 12]) + crossed + steps)


# ---- ring, channel, kernel maps ------------------------------------------------------------------

HEAD, TAIL = 8, 16  # words of the ring's header


def ring_step(what: int, where: int = 0, number: int = 0, small: int = 0, large: int = 0) -> bytes:
    return struct.pack("<BBHIQ", what, where, number, small, large)


def write_ring() -> None:
    write("ring_fuzz", "honest", ring_step(5, number=100) + ring_step(3, where=2) + ring_step(6))
    write("ring_fuzz", "head_too_far", ring_step(0, HEAD, large=2**63) + ring_step(3, where=1))
    write("ring_fuzz", "size_too_large",
          ring_step(5, number=100) + ring_step(2, number=0, small=2**31) + ring_step(3, where=1))
    write("ring_fuzz", "racing_head", ring_step(5, number=64) + ring_step(4, HEAD, small=64, large=2**64 - 1))
    write("ring_fuzz", "racing_size", ring_step(5, number=64) + ring_step(4, 255, small=60, large=0xFFFFFFFF))
    write("ring_fuzz", "hostile_tail", ring_step(0, TAIL, large=2**40) + ring_step(5, number=64))
    write("ring_fuzz", "round_and_round", (ring_step(5, number=60000) + ring_step(3, where=1)) * 4)


CONNECT, HELLO, CONFIGURE, STARTED, FAILED, STOP, STOPPED, ARM, ARMED = 7, 1, 2, 3, 4, 5, 6, 8, 9


def step(what: int, number: int = 0, content: bytes = b"") -> bytes:
    return bytes([what, number, len(content)]) + content


def write_control() -> None:
    look, drain, take = step(3), step(4, 255), step(5)
    begun = step(0, HELLO) + look + take
    # kStart of the stream, then a kTick
    start = b"\x01\x01\x00\x00\x00\x05\x03\x0b\x07"
    whole = begun + step(0, ARM) + look + step(0, STARTED) + look + step(6, 0, start) + drain
    write("control_fuzz", "whole", b"\0" + whole + step(8) + step(0, STOPPED) + look)
    write("control_fuzz", "cut_off", b"\0" + whole + step(10) + step(9) + look + drain)
    write("control_fuzz", "failed", b"\0" + begun + step(0, FAILED, b"\x05\0\0\0\x01\0\0\0why\x1b[2J\n") + look)
    write("control_fuzz", "twice", b"\0" + begun + step(0, HELLO) + look)
    write("control_fuzz", "descriptors", b"\0" + step(2, 2, b"x" * 20) + look)
    write("control_fuzz", "too_many_descriptors", b"\0" + step(2, 9, b"x" * 20) + look)
    write("control_fuzz", "too_large", b"\0" + step(1, 2, b"x" * 255) + look)
    write("control_fuzz", "hostile_ring", b"\0" + whole + step(7, HEAD, b"\xff" * 8) + drain)
    write("control_fuzz", "agent", b"\1" + step(0, CONFIGURE) + step(0, ARMED) + step(0, STOP))
    write("control_fuzz", "agent_descriptors", b"\1" + step(2, 3, b"y" * 30) + step(0, STOP))


def snapshot(slot: int, frames: int, size: int | None = None) -> bytes:
    head = struct.pack("<IIIIQQQQHHI", slot, 1, 1, 0, 5, 5, 0x1000, 0, frames, 0, 0)
    body = head + b"".join(struct.pack("<QQQ", 16 * i, 32 * i, i) for i in range(frames))
    record = struct.pack("<II", len(body) if size is None else size, 0) + body
    return record + bytes(-len(record) % 8)


def kernel_maps(ring: bytes, kernel: int | None = None, agent: int = 0, table: bytes = b"") -> bytes:
    kernel = len(ring) if kernel is None else kernel
    return struct.pack("<HB", len(table), 2) + table + struct.pack("<QQ", kernel, agent) + ring


def write_kernel_maps() -> None:
    two = snapshot(0, 3) + snapshot(1, 0)
    write("kernel_maps_fuzz", "two_snapshots", kernel_maps(two))
    write("kernel_maps_fuzz", "too_many_frames", kernel_maps(snapshot(0, 2, 56)))
    write("kernel_maps_fuzz", "record_too_large", kernel_maps(snapshot(0, 2, 0x0FFFFFFF)))
    # The kernel's position before the agent's: nothing may be read 2^64 times.
    write("kernel_maps_fuzz", "position_goes_back", kernel_maps(struct.pack("<II", 1 << 30, 0) * 512, kernel=8, agent=4096))
    write("kernel_maps_fuzz", "position_not_aligned", kernel_maps(bytes(6) + snapshot(0, 0), kernel=70, agent=6))
    write("kernel_maps_fuzz", "position_too_far", kernel_maps(bytes(4096), kernel=2**63))
    header = struct.pack("<IIIIIIQQQQ", 0x4D504245, 1, 64, 200, 1, 3, 0, 0, 0, 4096) + bytes(72)
    write("kernel_maps_fuzz", "more_used_than_there_are", kernel_maps(two, table=header))
    odd = header + bytes(256) + struct.pack("<II", 7, 1) + bytes(120)
    write("kernel_maps_fuzz", "always_being_written", kernel_maps(two, table=odd))


# ---- files below /proc ---------------------------------------------------------------------------


def write_process() -> None:
    stat = b"4711 (py (x) y) S 1 4711 4711 0 -1 4194560 1 2 3 4 17 5 0 0 20 0 1 0 9 " + b"0 " * 16 + b"3 0 0 0\n"
    write("process_fuzz", "stat", b"\4" + stat)
    write("process_fuzz", "schedstat", b"\5" + b"1200292 160919 2\n")
    write("process_fuzz", "rights", b"\6CapEff:\t000001ffffffffff\nCapBnd:\tff\nNoNewPrivs:\t1\nSeccomp:\t2\n")
    long_line = b"7f12a000-7f12b000 r-xp 00001000 fd:01 12 /" + b"a" * 8200
    write("process_fuzz", "lines", b"\7" + b"1000-2000 rw-s 0 0:1 5 /a\\012b (deleted)\n" + long_line + b"\n\n3-4 ---p 0 0:0 0")
    write("process_fuzz", "lockdown", b"\x08none [integrity] confidentiality\n")


if __name__ == "__main__":
    write_elf()
    write_unwind()
    write_images()
    write_ring()
    write_control()
    write_kernel_maps()
    write_process()
