"""A target with pages that never answer: whoever touches them waits for ever (userfaultfd(2), whose
server this process is, and which serves nothing).

stalling.py code            the file name of the main thread's innermost function is such a page
stalling.py module low      a file that looks like a library is made of them, mapped below all others
stalling.py module high     the same, above the program
stalling.py file PATH       this file, mapped below all others; it does not answer by itself
Waits for the end of its standard input, and reports."""

import ctypes
import fcntl
import os
import struct
import sys

from _support import ready, report

SYS_USERFAULTFD = 323  # x86-64
UFFD_API = 0xAA
UFFDIO_API = 0xC018AA3F
UFFDIO_REGISTER = 0xC020AA00
UFFDIO_REGISTER_MODE_MISSING = 1
PROT_READ_WRITE = 3
MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_FIXED_NOREPLACE = 1, 2, 0x20, 0x100000
SIZE = 1 << 16
LOW = 0x100000  # above vm.mmap_min_addr, below where a program may be linked to

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]


def map_memory(address, flags, file):
    found = libc.mmap(address, SIZE, PROT_READ_WRITE, flags, file, 0)
    assert found not in (None, ctypes.c_void_p(-1).value), os.strerror(ctypes.get_errno())
    return found


def make_stall(address):
    server = libc.syscall(SYS_USERFAULTFD, os.O_CLOEXEC)
    assert server >= 0, os.strerror(ctypes.get_errno())
    fcntl.ioctl(server, UFFDIO_API, struct.pack("QQQ", UFFD_API, 0, 0))
    register = struct.pack("QQQQ", address, SIZE, UFFDIO_REGISTER_MODE_MISSING, 0)
    fcntl.ioctl(server, UFFDIO_REGISTER, register)


def wait():
    sys.stdin.buffer.read()


def set_file_name(function, address):
    """Writes the address over the code object's pointer to its file's name."""
    code = function.__code__
    for offset in range(0, sys.getsizeof(code), 8):
        place = ctypes.c_void_p.from_address(id(code) + offset)
        if place.value == id(code.co_filename):
            place.value = address
            return
    raise AssertionError("no file name in the code object")


if sys.argv[1] == "code":
    stalling = map_memory(None, MAP_PRIVATE | MAP_ANONYMOUS, -1)
    make_stall(stalling)
    set_file_name(wait, stalling)
elif sys.argv[1] == "file":
    map_memory(LOW, MAP_PRIVATE | MAP_FIXED_NOREPLACE, os.open(sys.argv[2], os.O_RDONLY))
else:
    file = os.memfd_create("library")
    os.ftruncate(file, SIZE)
    place, flags = (LOW, MAP_FIXED_NOREPLACE) if sys.argv[2] == "low" else (None, 0)
    make_stall(map_memory(place, MAP_SHARED | flags, file))
ready()
wait()
report(pid=os.getpid())
os._exit(0)  # the end of Python would look at the file name
