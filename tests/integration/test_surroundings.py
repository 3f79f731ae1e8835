"""Neither Echion nor its tests and scripts depend on what happens to surround them: where the tree
lies, the user's name, the locale, the umask, TMPDIR, HOME, the time zone, an old build folder."""

from __future__ import annotations

import itertools
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from attach_support import start_target, target_command
from conftest import PYTHON, ROOT
from places import PROGRAMS, copy_for_all, open_to_all
from profile_text import Profile

NAMELESS_UID = 12345
NAMELESS = ["setpriv", f"--reuid={NAMELESS_UID}", f"--regid={NAMELESS_UID}", "--clear-groups"]
NAMELESS += ["--inh-caps=-all"]
# With a name that no file system takes in one piece, and yet shorter than the longest path.
LONG_PATH = "/".join(["long" * 40] * 6)
SPIN = "import time\nend = time.thread_time() + 0.2\nwhile time.thread_time() < end: pass"
SURROUNDINGS = {
    "bare": {},
    "c": {"LC_ALL": "C", "HOME": "/nonexistent", "USER": "nobody-at-all"},
    "unknown-locale": {"LC_ALL": "tr_TR.UTF-8", "LANG": "no_SUCH"},
    "time-zone": {"TZ": "Pacific/Chatham"},
    "no-tmpdir": {"TMPDIR": "/nonexistent", "HOME": ""},
}


def make_environment(name: str = "bare") -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **SURROUNDINGS[name]}


def copy_build(build: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """The two programs, and the tests' own by a symbolic link."""
    folder.mkdir(parents=True)
    copy_for_all((build / name for name in PROGRAMS), folder)
    (folder / "tests").symlink_to(build / "tests")
    return folder


def launch(program: pathlib.Path, python: str, folder: pathlib.Path, *wrap: str, **popen):
    """A launch that leaves its profile under the default name; the run, and all profiles."""
    done = subprocess.run(
        [*wrap, str(program), python, "-c", SPIN],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        **popen,
    )
    return done, list(folder.glob("*.echion"))


@pytest.mark.parametrize(
    ("name", "umask"), zip(SURROUNDINGS, itertools.cycle([0o077, 0o000])), ids=SURROUNDINGS
)
def test_a_launch(build_dir, any_python, tmp_path, name, umask):
    done, profiles = launch(
        build_dir / "echion",
        any_python.path,
        tmp_path,
        env=make_environment(name),
        umask=umask,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    (profile,) = profiles
    assert Profile.read(profile).total_with("<module>") > 100_000
    assert profile.stat().st_mode & umask == 0


def test_a_user_without_a_name(build_dir, tmp_path, needs_root):
    if shutil.which("setpriv") is None or not pathlib.Path(PYTHON).exists():
        pytest.skip(f"needs setpriv and {PYTHON}")
    open_to_all(tmp_path)
    program = copy_build(build_dir, tmp_path / "build") / "echion"
    own = tmp_path / "own"
    own.mkdir()
    os.chown(own, NAMELESS_UID, NAMELESS_UID)
    done, profiles = launch(program, PYTHON, own, *NAMELESS, env=make_environment(), umask=0o077)
    assert done.returncode == 0, done.stderr
    (profile,) = profiles
    assert Profile.read(profile).samples
    assert profile.stat().st_uid == NAMELESS_UID


def test_a_long_path(build_dir, any_python, tmp_path):
    program = copy_build(build_dir, tmp_path / LONG_PATH) / "echion"
    done, (profile,) = launch(program, any_python.path, tmp_path)
    assert done.returncode == 0, done.stderr
    assert Profile.read(profile).samples


def test_a_path_that_cannot_be_preloaded(build_dir, any_python, tmp_path, needs_root):
    """A launch says so; nothing else depends on it."""
    program = copy_build(build_dir, tmp_path / "a tree") / "echion"
    done, profiles = launch(program, any_python.path, tmp_path)
    assert done.returncode == 1
    assert "its path contains a space or a colon" in done.stderr
    with start_target(tmp_path, target_command(any_python, "busy", "60", "1000")) as busy:
        for options in (["-x", "0.1", "-o", str(tmp_path / "attached"), "-p"], ["-w"]):
            command = [str(program), *options, str(busy.pid)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr


# One test of each kind of place: profiles, folders for other users, the tree's own files, attaching.
SAMPLE = (
    "test_agent_library.py",
    "test_kinds.py::test_awkward_names_stay_apart",
    "test_kinds.py::test_plain_names_are_left_as_they_are",
    "test_where_refusals.py::test_no_permission",
    "test_where_refusals.py::test_a_process_of_another_user",
    "test_cli_launch.py::test_awkward_names_are_read_by_every_tool",
    "test_environment.py::test_through_a_console_script",
    "test_doctor.py",
)


def run_sample(tree: pathlib.Path, python: str, *wrap: str, **popen) -> str:
    """Runs some tests of a copy of the tree; what they wrote."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rs"]
    done = subprocess.run(
        [*wrap, *command, *(str(tree / "tests/integration" / one) for one in SAMPLE)],
        cwd="/",
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
        **{
            **popen,
            "env": {
                **popen["env"],
                "ECHION_BUILD": str(tree / "build"),
                "ECHION_TEST_PYTHONS": python,
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    return done.stdout


def copy_tree(build_dir: pathlib.Path, tree: pathlib.Path) -> pathlib.Path:
    copy_build(build_dir, tree / "build")
    shutil.copytree(ROOT / "tests", tree / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    return tree


def test_the_tests_in_a_closed_tree_with_a_space(build_dir, any_python, tmp_path):
    """In the temporary folder, which is another than usual, by a user who keeps files to himself."""
    tree = copy_tree(build_dir, tmp_path / "a tree")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**make_environment("c"), "TMPDIR": str(temporary), "TZ": "Asia/Kathmandu"}
    run_sample(tree, any_python.path, env=environment, umask=0o077)
    assert not list(temporary.iterdir()), "files are left"


def test_the_tests_of_a_user_without_a_name(build_dir, tmp_path, needs_root):
    if shutil.which("setpriv") is None or not pathlib.Path(PYTHON).exists():
        pytest.skip(f"needs setpriv and {PYTHON}")
    open_to_all(tmp_path)
    tree = copy_tree(build_dir, tmp_path / "tree")
    for one in (tree, *tree.rglob("*")):
        if not one.is_symlink():
            one.chmod(one.stat().st_mode | (0o055 if one.is_dir() else 0o044))
    # The name that a shell leaves behind after setpriv is another user's.
    environment = {**make_environment(), "LOGNAME": "root", "USER": "root", "HOME": "/root"}
    said = run_sample(tree, PYTHON, *NAMELESS, env=environment, umask=0)
    assert "needs root" in said, "the privileged ones give their reason"


def test_a_profile_is_shown_where_the_locale_lacks_its_characters(tmp_path):
    """The only locales that every machine has know all characters, or are taken for one that does:
    so the encoding is named."""
    profile = tmp_path / "profile.austin"
    profile.write_text("# mode: wall\n\nP1;T0:f\u00e4den;/\u4e2d.py:\U0001f40d:1 2000000\n", "utf-8")
    script = ROOT / "scripts/top_stacks.py"
    for encoding in ("ascii", "iso-8859-9"):
        done = subprocess.run(
            [PYTHON, script, profile],
            env={**make_environment(), "PYTHONIOENCODING": encoding},
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert b"2.00 s" in done.stdout


def test_a_profile_that_cannot_be_shown_is_told_in_a_line(tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"\xff no profile\n")
    script = ROOT / "scripts/top_stacks.py"
    for path, why in (
        (tmp_path / "missing", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (other, "no profile"),
    ):
        done = subprocess.run([PYTHON, script, path], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (1, f"{path}: {why}\n")


# ---- scripts/build in a folder that was configured otherwise ----

FAKE_CMAKE = """#!/bin/sh
# Configures, that is, leaves a cache as CMake does, and tells whether there was one.
case $1 in
    --version) echo "cmake version 3.99.1" ;;
    -S) if [ -e "$4/CMakeCache.txt" ]; then echo kept; else echo fresh; fi >>"$FAKE_LOG" ;;
    --build) echo built ;;
esac
"""
CACHE = {
    "CMAKE_CXX_COMPILER:FILEPATH": "/bin/sh",
    "CMAKE_CACHE_MAJOR_VERSION:INTERNAL": "3",
    "CMAKE_CACHE_MINOR_VERSION:INTERNAL": "99",
    "CMAKE_CACHE_PATCH_VERSION:INTERNAL": "1",
    "CMAKE_GENERATOR:INTERNAL": "Ninja",
}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "kept"),
        ({"CMAKE_GENERATOR:INTERNAL": "Unix Makefiles"}, "fresh"),
        ({"CMAKE_HOME_DIRECTORY:INTERNAL": "/somewhere/else"}, "fresh"),
        ({"CMAKE_CACHEFILE_DIR:INTERNAL": "/somewhere/else"}, "fresh"),
        ({"CMAKE_CACHE_MINOR_VERSION:INTERNAL": "98"}, "fresh"),
        ({"CMAKE_CXX_COMPILER:FILEPATH": "/nonexistent/c++"}, "fresh"),
    ],
    ids=["same", "generator", "tree", "folder", "version", "compiler"],
)
def test_an_old_build_folder(tmp_path, changed, expected):
    tools, build, log = tmp_path / "tools", tmp_path / "a build", tmp_path / "log"
    for folder in (tools, build):
        folder.mkdir()
    for name, script in (("cmake", FAKE_CMAKE), ("dpkg-query", "#!/bin/sh\nprintf installed\n")):
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    cache = {
        "CMAKE_HOME_DIRECTORY:INTERNAL": ROOT,
        "CMAKE_CACHEFILE_DIR:INTERNAL": build,
        **CACHE,
        **changed,
    }
    (build / "CMakeCache.txt").write_text("".join(f"{key}={to}\n" for key, to in cache.items()))
    (build / "precious").touch()
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "FAKE_LOG": str(log)}
    environment["BUILD_DIR"] = str(build)
    done = subprocess.run(
        [ROOT / "scripts/build"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert log.read_text().split() == [expected]
    assert ("starting afresh" in done.stdout) == (expected == "fresh")
    assert (build / "precious").exists(), "only CMake's own memory goes"
