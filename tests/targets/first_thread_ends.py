"""Its first thread ends by itself, without the C library's knowledge.

    first_thread_ends.py raw            by the system call, with status 6
    first_thread_ends.py raw_early      the same, while another thread goes on for a moment
    first_thread_ends.py strict         killed by seccomp's strict mode when it exits
    first_thread_ends.py filter         killed, alone, by a seccomp filter when it exits
"""

import ctypes
import struct
import sys
import threading

import _support

SYS_EXIT = 60
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
MODE_STRICT, MODE_FILTER = 1, 2
LOAD_NUMBER, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
RET_KILL_THREAD, RET_ALLOW = 0x00000000, 0x7FFF0000
EXIT_GROUP = 231

libc = ctypes.CDLL(None)


def install_filter():
    """Kills the calling thread on exit_group()."""
    program = b"".join(
        struct.pack("<HBBI", *line)
        for line in (
            (LOAD_NUMBER, 0, 0, 0),
            (JUMP_IF_EQUAL, 0, 1, EXIT_GROUP),
            (RETURN, 0, 0, RET_KILL_THREAD),
            (RETURN, 0, 0, RET_ALLOW),
        )
    )
    lines = ctypes.create_string_buffer(program, len(program))
    descriptor = struct.pack("@HP", len(program) // 8, ctypes.addressof(lines))
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(PR_SET_SECCOMP, MODE_FILTER, descriptor, 0, 0) == 0


kind = sys.argv[1]
if kind == "raw_early":
    # For longer than the sampler takes to see that the first thread has gone.
    threading.Thread(target=lambda: libc.usleep(800000), daemon=True).start()
_support.ready()
_support.spin(0.2)
if kind == "strict":
    assert libc.prctl(PR_SET_SECCOMP, MODE_STRICT) == 0
    libc._exit(6)
if kind == "filter":
    install_filter()
    libc._exit(6)
libc.syscall(SYS_EXIT, 6)
