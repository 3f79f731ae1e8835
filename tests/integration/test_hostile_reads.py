"""Processes whose memory or files are made to hold up whoever reads them: echion ends, says why, and
leaves the process as it was."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import platform
import struct
import subprocess

import pytest

from attach_support import start_target, target_command
from runner import TARGETS, TIMEOUT_S

pytestmark = [
    pytest.mark.usefixtures("needs_root"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="written for x86-64"),
]

SYS_USERFAULTFD = 323
STALLED = "does not answer"


@pytest.fixture
def needs_userfaultfd():
    libc = ctypes.CDLL(None, use_errno=True)
    server = libc.syscall(SYS_USERFAULTFD, os.O_CLOEXEC)
    if server < 0:
        pytest.skip(f"userfaultfd: {os.strerror(ctypes.get_errno())}")
    os.close(server)


@contextlib.contextmanager
def started(echion, *options):
    with subprocess.Popen(
        [str(echion.program), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_pages_that_never_answer(echion, any_python, tmp_path, needs_userfaultfd):
    """Each way of looking at a process meets such a page in another place: all at once, as each
    waits for some seconds until it takes the page for one that never comes."""
    with contextlib.ExitStack() as stack:

        def start(*arguments):
            command = target_command(any_python, "stalling", *arguments)
            return stack.enter_context(start_target(tmp_path, command))

        code, low, high = start("code"), start("module", "low"), start("module", "high")
        profiles = [tmp_path / "low.austin", tmp_path / "high.austin"]
        commands = {
            "where": ["-w", str(code.pid)],
            "follow": ["-x", "60", "--json", "-w", str(code.pid)],
            "where, low": ["-w", str(low.pid)],
            "attach, low": ["-o", profiles[0], "-x", "1", "-p", str(low.pid)],
            "attach, high": ["-o", profiles[1], "-x", "1", "-p", str(high.pid)],
        }
        looks = {
            name: stack.enter_context(started(echion, *options))
            for name, options in commands.items()
        }
        for name, look in looks.items():
            out, err = look.communicate(timeout=TIMEOUT_S)
            assert look.returncode == 1, (name, out, err)
            assert err.startswith("echion: ") and err.count("\n") == 1 and STALLED in err, (name, err)
            assert out == ""
        assert not any(one.exists() for one in profiles), "a file has been left"
        # What an unharmed process can do, they do.
        for target in (code, low, high):
            assert target.finish()["pid"] == target.pid


@pytest.fixture
def silent_file(tmp_path):
    """A file whose reads are taken by its file system's server, and never answered."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse")
    server, folder = tmp_path / "silent_fuse", tmp_path / "mounted"
    subprocess.run(["gcc", TARGETS / "silent_fuse.c", "-o", server], check=True)
    folder.mkdir()
    with subprocess.Popen([server, folder], stdin=-1, stdout=-1, stderr=-1) as process:
        try:
            if process.stdout.readline() != b"ready\n":
                pytest.skip(f"cannot mount: {process.stderr.read().decode().strip()}")
            yield folder / "library.so"
        finally:
            process.stdin.close()  # unmounts
            process.wait()


def test_file_system_that_has_taken_the_request(echion, any_python, tmp_path, silent_file):
    """The read cannot even be killed: the command ends all the same."""
    with contextlib.ExitStack() as stack:
        command = target_command(any_python, "stalling", "file", silent_file)
        target = stack.enter_context(start_target(tmp_path, command))
        profile = tmp_path / "profile.austin"
        commands = (["-w", str(target.pid)], ["-o", profile, "-x", "1", "-p", str(target.pid)])
        for look in [stack.enter_context(started(echion, *options)) for options in commands]:
            out, err = look.communicate(timeout=TIMEOUT_S)
            assert look.returncode == 1 and out == ""
            assert err.startswith("echion: ") and err.count("\n") == 1 and STALLED in err
        assert not profile.exists()
        assert target.finish()["pid"] == target.pid


TABLES, TABLE_BYTES, TABLES_AT = 1022, 64 << 20, 1 << 20


def add_symbol_tables(program: pathlib.Path):
    """Replaces the section headers of a 64-bit program by symbol tables, all the same sparse one."""
    headers = bytearray()
    for _ in range(TABLES):
        # sh_name, sh_type (SHT_SYMTAB), sh_flags, sh_addr, sh_offset, sh_size, sh_link, sh_info,
        # sh_addralign, sh_entsize
        headers += struct.pack("<IIQQQQIIQQ", 0, 2, 0, 0, TABLES_AT, TABLE_BYTES, 0, 0, 8, 24)
    with open(program, "r+b") as file:
        file.seek(0, os.SEEK_END)
        place = (file.tell() + 7) & ~7
        assert place + len(headers) <= TABLES_AT
        file.seek(place)
        file.write(headers)
        file.seek(40)
        file.write(struct.pack("<Q", place))  # e_shoff
        file.seek(60)
        file.write(struct.pack("<HH", TABLES, 0))  # e_shnum, e_shstrndx
        file.truncate(TABLES_AT + TABLE_BYTES)


def bytes_read_by_ended(pid):
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    counts = pathlib.Path(f"/proc/{pid}/io")
    if not counts.exists():
        pytest.skip("this kernel does not count what is read")
    return int(counts.read_text().split()[1])


def test_file_of_a_thousand_symbol_tables(echion, tmp_path):
    source, program = tmp_path / "wait.c", tmp_path / "wait"
    source.write_text('#include <unistd.h>\nint main(void) { write(1, "r", 1); pause(); }\n')
    subprocess.run(["gcc", source, "-o", program], check=True)
    add_symbol_tables(program)
    with subprocess.Popen([program], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.read(1) == b"r"
            with started(echion, "-w", str(process.pid)) as look:
                read = bytes_read_by_ended(look.pid)
                _, err = look.communicate(timeout=TIMEOUT_S)
            assert look.returncode == 1
            assert "does not run CPython" in err
            assert read < 4 * TABLE_BYTES, "one table, its names, and the names of sections"
        finally:
            process.kill()


TRAP = r"""
#define _GNU_SOURCE
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>
/* Waits in pause() inside a function whose call frame is described by an expression that jumps to
   itself (DW_CFA_def_cfa_expression, DW_OP_skip -3). */
__asm__(".type trap, @function\n"
        "trap: .cfi_startproc\n"
        ".cfi_escape 0x0f, 0x03, 0x2f, 0xfd, 0xff\n"
        "mov $34, %eax\n syscall\n ret\n"
        ".cfi_endproc\n .size trap, . - trap\n");
void trap(void);
static void nothing(int number) { (void)number; }
/* With the mark of a signal handler on the stack, whose callers have to be known. */
int wait_in_trap(void) {
    struct { void* handler; unsigned long flags; void* restorer; unsigned long mask; } action;
    signal(SIGUSR1, nothing);
    syscall(SYS_rt_sigaction, SIGUSR1, 0, &action, 8);
    void* volatile marks[8];
    for (int i = 0; i < 8; ++i) marks[i] = action.restorer;
    trap();
    return marks[0] == action.restorer;
}
"""


def test_unwind_table_without_an_end(echion, any_python, tmp_path):
    source, library = tmp_path / "trap.c", tmp_path / "trap.so"
    source.write_text(TRAP)
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", source, "-o", library], check=True)
    code = (
        "import ctypes, sys, os; sys.path.insert(0, os.environ['TARGETS']);"
        "from _support import ready, report; trap = ctypes.CDLL(sys.argv[1]); ready();"
        "report(got=trap.wait_in_trap())"
    )
    command = [any_python.path, "-c", code, library]
    with start_target(tmp_path, command, env={"TARGETS": str(TARGETS)}) as target:
        target.wait_for_call(34)
        result = echion.run(["-p", str(target.pid)], "-x", "0.1")
        assert result.returncode == 1
        assert "callers cannot be told" in result.stderr
        assert not result.output.exists()
        os.kill(target.pid, 10)  # SIGUSR1 ends its pause()
        assert target.finish()["got"] == 1
