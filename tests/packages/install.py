"""What scripts/packages runs: installs the sets of packages that are listed here, one file a set.

The first line of a list names what tests want; below are the wheels that this takes, as pip's
requirements with hashes. `--pin` makes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from typing import Iterator

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "integration"))

from interpreters import Interpreter, find_free_threaded, find_interpreters  # noqa: E402
from packages import NOTE, packages_folder  # noqa: E402

UNAVAILABLE = 77
# What wheels for glibc on x86_64 may be called, as of the C library of Debian 12.
PLATFORMS = ["linux_x86_64", "manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64"]
PLATFORMS += [f"manylinux_2_{minor}_x86_64" for minor in range(5, 37)]
TIMEOUT_S = 600.0


class Failed(Exception):
    """Why a set cannot be had."""


class Unreachable(Failed):
    """Nor can any other."""


def run(*command: object) -> None:
    try:
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(str(error)) from error
    if done.returncode != 0:
        if lost := re.search(r"connection broken by '(?:.*?: )?(.*?)'?\)?':", done.stderr):
            raise Unreachable(f"the registry of packages is not reached: {lost[1]}")
        lines = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()
        raise Failed(lines[-1])


@contextlib.contextmanager
def make_pip() -> Iterator[list[str]]:
    """A pip of Debian's, which works for other interpreters as well: some have none."""
    with tempfile.TemporaryDirectory() as folder:
        run("/usr/bin/python3", "-m", "venv", folder)
        yield [f"{folder}/bin/python", "-m", "pip", "--disable-pip-version-check", "--retries", "1",
               "--timeout", "20"]  # fmt: skip


def find_interpreter(name: str) -> Interpreter | None:
    version = name.partition("-")[0]
    found = (*find_interpreters(), *find_free_threaded())
    return next((one for one in found if one.is_called(version)), None)


def is_installed(listed: pathlib.Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return (packages_folder() / listed.stem / NOTE).read_text() == listed.read_text()
    return False


def describe_target(python: Interpreter) -> list[str]:
    """pip's options for an interpreter other than its own."""
    abi = "cp%d%d" % python.minor + "t" * python.is_free_threaded
    options = ["--python-version", ".".join(map(str, python.version)), "--implementation", "cp"]
    options += ["--abi", abi]
    for platform in PLATFORMS:
        options += ["--platform", platform]
    return options


def install(pip: list[str], listed: pathlib.Path, python: Interpreter) -> None:
    folder = packages_folder() / listed.stem
    new = folder.with_name(folder.name + ".new")
    for old in (new, folder):
        shutil.rmtree(old, ignore_errors=True)
    run(*pip, "install", "-q", "--only-binary=:all:", "--no-deps", "--require-hashes", "-r", listed,
        "--target", new, *describe_target(python))  # fmt: skip
    (new / NOTE).write_text(listed.read_text())
    new.rename(folder)


def install_all() -> int:
    pythons = {one: find_interpreter(one.stem) for one in sorted(HERE.glob("*.txt"))}
    wanted = {one: python for one, python in pythons.items() if python}
    if all(map(is_installed, wanted)):
        return 0
    packages_folder().mkdir(parents=True, exist_ok=True)
    failures = {}
    with open(packages_folder() / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [one for one in wanted if not is_installed(one)]  # another one may have been here
        try:
            with make_pip() if missing else contextlib.nullcontext([]) as pip:
                for listed in missing:
                    try:
                        install(pip, listed, wanted[listed])
                    except Unreachable:
                        raise
                    except Failed as error:
                        failures[f"no set {listed.stem}"] = error
        except Failed as error:
            failures["some sets are missing"] = error
    for what, error in failures.items():
        print(f"packages: {what}: {error}", file=sys.stderr)
    return UNAVAILABLE if failures else 0


def pin(pip: list[str], name: str) -> None:
    listed = HERE / f"{name}.txt"
    python = find_interpreter(name)
    if python is None:
        raise Failed("there is no such interpreter")
    first = listed.read_text().splitlines()[0]
    with tempfile.TemporaryDirectory() as folder:
        # Dependencies that only some versions have are those of the version that pip runs with.
        run(*pip, "download", "-q", "--only-binary=:all:", "--no-deps", "--dest", folder,
            *describe_target(python), "pip")  # fmt: skip
        (wheel,) = pathlib.Path(folder).glob("pip-*.whl")
        report = pathlib.Path(folder, "report.json")
        run(python.path, wheel / "pip", "install", "-q", "--only-binary=:all:", "--dry-run",
            "--ignore-installed", "--report", report, *first.removeprefix("# ").split())  # fmt: skip
        installed = json.loads(report.read_text())["install"]
    lines = [first]
    for one in sorted(installed, key=lambda one: one["metadata"]["name"].lower()):
        about, archive = one["metadata"], one["download_info"]["archive_info"]
        lines += [
            f"{about['name']}=={about['version']} \\",
            f"    --hash=sha256:{archive['hashes']['sha256']}",
        ]
    listed.write_text("\n".join(lines) + "\n")


def main() -> int:
    match sys.argv[1:]:
        case []:
            try:
                return install_all()
            except OSError as error:
                print(f"packages: {error}", file=sys.stderr)
                return UNAVAILABLE
        case ["--pin", *names] if names:
            with make_pip() as pip:
                for name in names:
                    pin(pip, name)
            return 0
    print("usage: scripts/packages [--pin SET…]", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
