"""How the two programs are linked, and where their symbols went."""

import re
import subprocess

import pytest

# The agent needs no newer C library than it did before it was hardened.
NEWEST_LIBC = (2, 34)
STRIPPED_SECTIONS = (".symtab", ".debug_info")


def readelf(option, path):
    return subprocess.run(
        ["readelf", "-W", option, str(path)], check=True, capture_output=True, text=True
    ).stdout


def needed_versions(path):
    found = re.findall(r"GLIBC_(\d+)\.(\d+)", readelf("--version-info", path))
    return [(int(major), int(minor)) for major, minor in found]


@pytest.fixture(params=["echion", "libechion.so"])
def program(request, build_dir):
    return build_dir / request.param


def test_it_is_linked_to_be_read_only_once_it_runs(program):
    assert re.search(r"Type:\s+DYN", readelf("--file-header", program)), "not position-independent"
    segments = readelf("--program-headers", program)
    assert "GNU_RELRO" in segments
    stack = re.search(r"GNU_STACK.* (R[W ][E ]) ", segments)
    assert stack and "E" not in stack.group(1), "its stack could be executed"
    assert not re.search(r"LOAD.* RWE ", segments)
    dynamic = readelf("--dynamic", program)
    assert re.search(r"FLAGS_1.*NOW", dynamic), "bound lazily: its table of functions stays writable"
    assert "TEXTREL" not in dynamic and "RPATH" not in dynamic and "RUNPATH" not in dynamic


def test_its_stack_is_protected(program):
    assert "__stack_chk_fail" in readelf("--dyn-syms", program)


def test_only_the_program_uses_checked_functions(build_dir):
    assert re.search(r"__\w+_chk@", readelf("--dyn-syms", build_dir / "echion"))
    agent = readelf("--dyn-syms", build_dir / "libechion.so")
    assert not re.search(r"__\w+_chk@", agent), "these need a recent C library in the target"
    assert "GLIBCXX" not in agent


def test_the_agent_needs_no_newer_c_library(build_dir):
    versions = needed_versions(build_dir / "libechion.so")
    assert versions and max(versions) <= NEWEST_LIBC, max(versions)


def test_its_symbols_are_in_a_file_beside_it(program):
    sections = readelf("--sections", program)
    assert ".gnu_debuglink" in sections
    assert not [name for name in STRIPPED_SECTIONS if name in sections]
    symbols = program.with_name(program.name + ".debug")
    assert all(name in readelf("--sections", symbols) for name in STRIPPED_SECTIONS)
    command = ["readelf", "--string-dump=.gnu_debuglink", str(program)]
    link = subprocess.run(command, check=True, capture_output=True).stdout
    assert symbols.name.encode() in link  # a checksum, which is no text, comes behind it
