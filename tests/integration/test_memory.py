"""What the agent takes of the memory of the program: little of its address space where that is
limited, and none any more once it samples."""

import re
import subprocess

import pytest

from attach_support import Target, start_target
from runner import TARGETS, TIMEOUT_S

ALLOCATES = re.compile(
    r"(m|c|re|v|pv)alloc|c?free|aligned_alloc|posix_memalign|memalign|reallocarray|s?brk|_Zn[wa].*"
    r"|_Zd[la].*|strn?dup|v?asprintf|fopen|fdopen|opendir|getline|getdelim|mremap"
)
BUSY = "import sys; sys.path.insert(0, sys.argv[1]); import _support; _support.ready()\nwhile True: pass"


def test_the_agent_has_no_allocator(build_dir):
    """Memory comes from mmap(2) alone, which is called when sampling starts."""
    command = ["nm", "-D", "--undefined-only", "--format=posix", str(build_dir / "libechion.so")]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    names = [line.split("@")[0].split()[0] for line in listing.splitlines()]
    assert "dl_iterate_phdr" in names, "not a listing that this test can judge"
    assert not [name for name in names if ALLOCATES.fullmatch(name)]


def test_once_it_samples_the_agent_maps_nothing(echion, any_python, engine):
    """The program maps nothing either, so that its memory stays as it is."""
    command = [any_python.path, "-c", BUSY, TARGETS]
    with echion.start(command, "-i", "1ms", "--engine", engine) as running:
        target = Target(running.process, running.wait_ready(), echion.folder)
        target.wait_until_sampled(500)  # names and lists of threads have been looked at by then
        before = mappings(target.pid)
        target.wait_until_sampled(1500)
        assert mappings(target.pid) == before


def mappings(pid):
    """Where memory is mapped, without what grows by itself as it is used."""
    with open(f"/proc/{pid}/maps") as maps:
        return [line for line in maps.read().splitlines() if not line.endswith("[stack]")]


@pytest.mark.parametrize("options", [(), ("-c",)], ids=["wall", "cpu"])
@pytest.mark.parametrize("kilobytes", [400_000, 200_000])
def test_a_program_of_limited_address_space_is_sampled(echion, python, kilobytes, options):
    """By `ulimit -v` in the command: the program's space is limited, and echion's is not."""
    program = f"'{python.path}' '{TARGETS / 'shares.py'}' 0.5"
    result = echion.run(["sh", "-c", f"ulimit -v {kilobytes}; exec {program}"], *options).check()
    assert result.profile.total_with("sixty") > 0, result.stderr
    assert int(result.profile.footer["table_full"]) == 0


# Judges, notebooks and workers do so: what echion has reserved by then counts as the program's.
LIMITS_ITSELF = """
import resource, sys, threading, time
sys.path.insert(0, sys.argv[1])
import _support
if sys.argv[3] == "attached":
    _support.ready()
    input()
_support.wait_for_sampler()
limit = int(sys.argv[2]) << 20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
memory = bytearray(limit // 4)
thread = threading.Thread(target=time.sleep, args=(0.2,))
thread.start()
thread.join()
memory = bytearray(limit // 4)
print("fine")
"""


@pytest.mark.parametrize("way", ["launched", "attached"])
def test_a_program_that_limits_its_own_address_space_has_room(
    echion, any_python, needs_root, tmp_path, way
):
    command = [any_python.path, "-c", LIMITS_ITSELF, str(TARGETS), "640", way]
    if way == "launched":
        out = echion.run(command).check().stdout
    else:
        with start_target(tmp_path, command, stdout=subprocess.PIPE) as target:
            with echion.start(["-p", str(target.pid)]) as running:
                target.wait_until_sampled(100)
                target.process.stdin.write(b"\n")
                target.process.stdin.flush()
                out = target.process.communicate(timeout=TIMEOUT_S)[0].decode()
                running.finish().check()
    assert out == "fine\n"


# Many threads that take the lock in turn, for a moment: each tick has to look at all of them, and
# finds them standing still.
CROWD = """
import threading, time
threading.stack_size(1 << 18)
until = time.monotonic() + 1
def work():
    while time.monotonic() < until: time.sleep(0.001)
threads = [threading.Thread(target=work) for _ in range(20)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
# As many as without the limit, were it not for chance: which threads have held the lock.
MORE_CALLS = 1.8


def test_a_limited_address_space_costs_no_more_system_calls(echion, python):
    """The stacks of many threads are copied in one call, also by a sampler that has little room."""

    def calls_a_tick(kilobytes):
        program = ["sh", "-c", 'ulimit -v "$1"; exec "$2" -c "$3"', "sh", kilobytes, python.path, CROWD]
        result = echion.run(program, "-i", "5ms", "--engine", "clock").check()
        footer = result.profile.footer
        assert int(footer["table_full"]) == 0
        return int(footer["syscalls"]) / int(footer["ticks"])

    assert calls_a_tick("400000") < MORE_CALLS * calls_a_tick("unlimited")


LOCKED = """
import ctypes, sys
sys.path.insert(0, sys.argv[1])
import _support
libc = ctypes.CDLL(None, use_errno=True)
if libc.mlockall(int(sys.argv[2])) != 0:
    raise SystemExit(f"mlockall: {ctypes.get_errno()}")
_support.ready()
while True:
    _support.time.sleep(0.001)
"""
# Of what it holds without Echion: the agent's small tables and the rings, which a program that locks
# its memory has the kernel fill. What may become large is not there before it is needed.
LOCKED_BYTES = 100 << 20


@pytest.mark.parametrize("flags", [1, 2, 3], ids=["current", "future", "both"])
def test_a_program_that_locks_its_memory_is_not_filled(needs_root, echion, python, flags):
    command = [python.path, "-c", LOCKED, TARGETS, str(flags)]
    with echion.start(command) as running:
        target = Target(running.process, running.wait_ready(), echion.folder)
        target.wait_until_sampled(200)
        assert resident_bytes(target.pid) < LOCKED_BYTES


def test_attaching_to_a_program_that_locks_its_memory_fills_nothing(
    needs_root, echion, python, tmp_path
):
    command = [python.path, "-c", LOCKED, TARGETS, "3"]
    with start_target(tmp_path, command) as target:
        with echion.start(["-p", str(target.pid)], "-x", "2") as running:
            target.wait_until_sampled(200)
            assert resident_bytes(target.pid) < LOCKED_BYTES
            running.finish().check()


def resident_bytes(pid):
    with open(f"/proc/{pid}/status") as status:
        return 1024 * int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1))
