"""Runs a command in which process_vm_readv and process_vm_writev are refused, as containers do it.

    without_vm_readv.py COMMAND…

The filter (seccomp, in classic BPF) is inherited across exec and by threads. x86-64 only.
"""

import ctypes
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
SYS_PROCESS_VM_READV, SYS_PROCESS_VM_WRITEV = 310, 311
EPERM = 1

LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
RETURN_ERRNO, RETURN_ALLOW = 0x00050000, 0x7FFF0000


def instruction(code, if_true, if_false, constant):
    return struct.pack("<HBBI", code, if_true, if_false, constant)


def make_program(calls):
    tests = b"".join(
        instruction(JUMP_IF_EQUAL, len(calls) - i, 0, call) for i, call in enumerate(calls)
    )
    return (
        instruction(LOAD_WORD, 0, 0, 0)  # seccomp_data.nr
        + tests
        + instruction(RETURN, 0, 0, RETURN_ALLOW)
        + instruction(RETURN, 0, 0, RETURN_ERRNO | EPERM)
    )


class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_char_p)]


def install(*calls):
    libc = ctypes.CDLL(None, use_errno=True)
    instructions = make_program(calls)
    program = Filter(len(instructions) // 8, instructions)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    assert os.uname().machine == "x86_64"
    install(SYS_PROCESS_VM_READV, SYS_PROCESS_VM_WRITEV)
    os.execvp(sys.argv[1], sys.argv[1:])
