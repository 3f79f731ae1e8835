"""Targets that live elsewhere: as another user, and in other namespaces with another root."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import pytest

from attach_support import start_target, target_command
from runner import TARGETS

pytestmark = pytest.mark.usefixtures("needs_root")
NOBODY = 65534


def attach(echion, pid, *options, **keywords):
    return echion.run(["-p", str(pid)], *options, **keywords)


def test_process_of_another_user(echion, any_python, tmp_path):
    python = any_python.path if not any_python.path.startswith("/root") else "/usr/bin/python3"
    targets = tmp_path / "targets"
    shutil.copytree(TARGETS, targets)
    make_reachable(tmp_path)
    command = [python, str(targets / "waits.py"), "raw_read"]
    with start_target(tmp_path, command, user=NOBODY, group=NOBODY) as waiting:
        waiting.wait_for_call(0)
        result = attach(echion, waiting.pid, "-x", "0.2").check()
        report = waiting.finish()
    assert report["got"] == report["wanted"]
    assert result.profile.total_with("main", "raw_read", thread="MainThread")
    assert result.output.stat().st_uid == os.geteuid()


def make_reachable(folder):
    for one in [folder, *folder.parents]:
        if one.stat().st_uid == os.geteuid() and one != pathlib.Path("/"):
            one.chmod(one.stat().st_mode | 0o055)


# Makes a root of its own out of parts of this one, read-only, with the interpreter's folder under
# another name, and runs the target in it: nothing is at the path where this program would look.
ENTER = """
set -e
root=$1 prefix=$2 targets=$3 folder=$4; shift 4
mount -t tmpfs tmpfs "$root"
for part in usr lib lib64 bin etc dev; do
    [ -e "/$part" ] || continue
    if [ -L "/$part" ]; then cp -a "/$part" "$root/$part"; continue; fi
    mkdir "$root/$part"
    mount --rbind "/$part" "$root/$part"
done
mkdir "$root/proc" "$root/python" "$root/targets" "$root/words"
mount --bind "$prefix" "$root/python"
mount --bind "$targets" "$root/targets"
mount --bind "$folder" "$root/words"
mount -t proc proc "$root/proc"
mount -o remount,ro,bind "$root"
exec chroot "$root" "$@"
"""


@pytest.mark.parametrize("users", ["same user namespace", "own user namespace"])
def test_container_with_its_own_root(echion, python, tmp_path, users):
    if python.has_own_c_library:
        pytest.skip("its C library is not in that root")
    prefix = pathlib.Path(python.path).parents[1]
    root = tmp_path / "root"
    words = tmp_path / "words"
    root.mkdir()
    words.mkdir()
    own_user = ["--user", "--map-root-user"] if users.startswith("own") else []
    inside = [f"/python/bin/{pathlib.Path(python.path).name}", "/targets/waits.py", "raw_read"]
    command = [
        "unshare",
        *own_user,
        *("--mount", "--pid", "--fork", "--net", "--uts", "--ipc", "--kill-child"),
        *("sh", "-c", ENTER, "sh", root, prefix, TARGETS, words),
        *inside,
    ]
    probe = subprocess.run(["unshare", *own_user, "--mount", "true"], capture_output=True)
    if probe.returncode:
        pytest.skip(f"no namespaces here: {probe.stderr.decode().strip()}")
    with container(words, command) as waiting:
        waiting.wait_for_call(0)
        result = attach(echion, waiting.pid, "-x", "0.2").check()
        report = waiting.finish()
    assert report["got"] == report["wanted"]
    profile = result.profile
    assert profile.total_with("main", "raw_read", thread="MainThread")
    assert {sample.pid for sample in profile.samples} == {waiting.pid}, "not our view of its pid"


class container:
    """start_target() for a target that sees other paths and another number of its own."""

    def __init__(self, words, command):
        self._words = words
        self._command = command

    def __enter__(self):
        self._inner = start_target(
            self._words,
            self._command,
            env={"LD_LIBRARY_PATH": "/python/lib"},
            seen_at=pathlib.Path("/words"),
        )
        target = self._inner.__enter__()
        target.pid = innermost(target.process.pid)
        return target

    def __exit__(self, *exception):
        return self._inner.__exit__(*exception)


def innermost(pid):
    """The last of a chain of only children."""
    while children := pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[-1])
    return pid


def test_echion_in_a_sidecar(echion, python, tmp_path):
    """Echion sees the target's processes, and neither its files, its network nor its users."""
    prefix = pathlib.Path(python.path).parents[1]
    if prefix == pathlib.Path("/usr"):
        hide = "mount -t tmpfs none /usr/bin"
    else:
        hide = f"mount -t tmpfs none {prefix}"
    with start_target(tmp_path, target_command(python, "waits", "raw_read")) as waiting:
        waiting.wait_for_call(0)
        wrap = ["unshare", "--mount", "--net", "--uts", "--ipc"]
        wrap += ["sh", "-c", f'{hide} && exec "$@"', "sh"]
        result = attach(echion, waiting.pid, "-x", "0.2", wrap=wrap).check()
        report = waiting.finish()
    assert report["got"] == report["wanted"]
    assert result.profile.total_with("main", "raw_read", thread="MainThread")


STATIC_SOURCE = """
#include <Python.h>
int main(int argc, char** argv) { return Py_BytesMain(argc, argv); }
"""


@pytest.mark.parametrize("stripped", [False, True])
def test_interpreter_linked_into_the_program(echion, python, tmp_path, stripped):
    """No libpython: the runtime is in an executable that exports nothing."""
    prefix = pathlib.Path(python.path).resolve().parents[1]
    archives = sorted(prefix.glob("lib/python3*/config*/libpython*.a"))
    headers = sorted(prefix.glob("include/python3*"))
    if not archives or not headers:
        pytest.skip("this interpreter has no static library")
    if stripped and python.minor < (3, 10):
        pytest.skip("before 3.10 nothing marks the runtime's place in a stripped file")
    source, program = tmp_path / "embed.c", tmp_path / "embed"
    source.write_text(STATIC_SOURCE)
    linked = subprocess.run(
        ["gcc", source, f"-I{headers[0]}", archives[0], "-o", program]
        + ["-lm", "-ldl", "-lpthread", "-lutil", "-lz", *(["-s"] if stripped else [])],
        capture_output=True,
        text=True,
    )
    if linked.returncode:
        pytest.skip(f"cannot be linked here: {linked.stderr[-200:]}")
    command = [str(program), str(TARGETS / "still.py"), "2", "10", "60"]
    with start_target(tmp_path, command, env={"PYTHONHOME": str(prefix)}) as still:
        result = attach(echion, still.pid, "-x", "0.2").check()
        assert result.profile.total_with("descend", thread="MainThread")
