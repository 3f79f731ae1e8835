"""What `cmake --install` leaves: programs that work from there, and a manual and completions that know
every option. scripts/test-packages does the same for wheels."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess

import pytest

from conftest import ROOT
from runner import Echion

MANUAL = "share/man/man1/echion.1"
BASH = "share/bash-completion/completions/echion"
ZSH = "share/zsh/site-functions/_echion"
FISH = "share/fish/vendor_completions.d/echion.fish"
ENGINES = "auto bpf perf clock"
FORMATS = "austin mojo pprof"
SPIN = "import time\nend = time.thread_time() + 0.2\nwhile time.thread_time() < end: pass"


@pytest.fixture(scope="module")
def prefix(build_dir, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("prefix")
    subprocess.run(
        ["cmake", "--install", str(build_dir), "--prefix", str(folder)],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="module")
def agent(prefix) -> pathlib.Path:
    """lib, or what this distribution has for it."""
    (found,) = prefix.rglob("libechion.so")
    return found


@pytest.fixture(scope="module")
def options(build_dir) -> dict[str, bool]:
    """The options of `echion --help`, and whether each takes a value."""
    text = subprocess.run(
        [build_dir / "echion", "--help"], check=True, capture_output=True, text=True
    ).stdout
    rows = re.findall(r"^  ((?:-\w,)?--[-\w]+)( [A-Z]+)?(?= |$)", text, re.M)
    return {name: bool(value) for names, value in rows for name in names.split(",")}


def values(options: dict[str, bool]) -> set[str]:
    return {name for name, has_value in options.items() if has_value}


def test_it_is_the_programs_the_manual_and_completions(prefix, agent):
    files = {str(one.relative_to(prefix)) for one in prefix.rglob("*") if one.is_file()}
    assert files == {"bin/echion", str(agent.relative_to(prefix)), MANUAL, BASH, ZSH, FISH}


def test_it_profiles_a_program(prefix, any_python, tmp_path):
    done = Echion(prefix / "bin/echion", tmp_path).run([any_python.path, "-c", SPIN]).check()
    assert any(sample.frames for sample in done.profile.samples), done.profile


def test_it_is_found_through_a_link_and_takes_no_agent_from_the_environment(
    prefix, agent, any_python, tmp_path
):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/echion").symlink_to(prefix / "bin/echion")
    false = tmp_path / "libechion.so"
    false.write_text("no library")
    result = Echion(tmp_path / "bin/echion", tmp_path).run(
        [any_python.path, "-c", "print(open('/proc/self/maps').read())"],
        env={"LD_LIBRARY_PATH": str(tmp_path), "PWD": str(tmp_path)},
        cwd=tmp_path,
    ).check()
    assert str(agent) in result.stdout and str(false) not in result.stdout


def test_without_its_agent_it_says_so(prefix, tmp_path):
    (tmp_path / "bin").mkdir()
    shutil.copy(prefix / "bin/echion", tmp_path / "bin/echion")
    result = Echion(tmp_path / "bin/echion", tmp_path).run(["true"])
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1 and "installation is not complete" in result.stderr


def test_symbols_are_left_in_the_build_folder(build_dir, prefix, agent, tmp_path):
    assert not list(prefix.rglob("*.debug"))
    subprocess.run(
        ["cmake", "--install", build_dir, "--prefix", tmp_path, "--component", "debug"],
        check=True,
        capture_output=True,
    )
    found = {one.name for one in tmp_path.rglob("*") if one.is_file()}
    assert found == {one.name for one in build_dir.glob("*.debug")}


def test_the_manual_has_every_option(prefix, options):
    text = (prefix / MANUAL).read_text()
    told = {}
    for line in re.findall(r"^\.It (Fl .*)", text, re.M):
        names = ["-" + name for name in re.findall(r"Fl (-?[-\w]+)", line)]
        told |= dict.fromkeys(names, " Ar " in line)
    assert told == options
    for word in f"{ENGINES} {FORMATS}".split():
        assert re.search(rf"^\.Cm {word}\b", text, re.M)


def test_the_manual_can_be_formatted(prefix):
    if not shutil.which("groff"):
        pytest.skip("no groff")
    command = ["groff", "-mdoc", "-ww", "-z", "-Tutf8", str(prefix / MANUAL)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "can't find macro file" in done.stderr or "cannot" in done.stderr:
        pytest.skip(f"groff has no mdoc: {done.stderr.strip()}")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


# ---- completions ----


def complete_in_bash(prefix: pathlib.Path, *words: str) -> set[str]:
    """What bash offers for the last word."""
    script = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1));'
        '_echion "$1" "${COMP_WORDS[COMP_CWORD]}"; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    command = ["bash", "--norc", "-c", script, "bash", str(prefix / BASH), "echion", *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_bash_offers_every_option(prefix, options):
    assert complete_in_bash(prefix, "-") == set(options)
    assert complete_in_bash(prefix, "-c", "-i", "10ms", "--engine=bpf", "-") == set(options)


def test_bash_knows_which_options_take_a_value(prefix, options):
    for name, has_value in options.items():
        # Behind a value, or a flag, Echion's options go on; behind a command they do not.
        assert ("--json" in complete_in_bash(prefix, name, "value", "--")) == has_value, name


def test_bash_offers_values(prefix):
    assert complete_in_bash(prefix, "--engine", "") == set(ENGINES.split())
    assert complete_in_bash(prefix, "--format", "") == set(FORMATS.split())
    assert complete_in_bash(prefix, "--engine", "=", "p") == {"perf"}
    assert str(os.getpid()) in complete_in_bash(prefix, "-p", "")
    assert complete_in_bash(prefix, "--interval", "") == set()
    assert "sh" in complete_in_bash(prefix, "-c", "s")
    assert "sh" in complete_in_bash(prefix, "-c", "--", "s")


def test_zsh_knows_every_option(prefix, options):
    text = (prefix / ZSH).read_text()
    found = {}
    for line in re.findall(r"^    '(.*)\[", text, re.M):
        head = re.sub(r"^\(.*?\)'?", "", line)
        for name in re.findall(r"(--?[-\w]+)([+=]?)", head):
            found[name[0]] = bool(name[1])
    assert found == options
    assert f"({ENGINES})" in text and f"({FORMATS})" in text
    if shutil.which("zsh"):
        subprocess.run(["zsh", "-n", str(prefix / ZSH)], check=True)


def test_fish_knows_every_option(prefix, options):
    text = (prefix / FISH).read_text()
    found = {}
    for line in re.findall(r"^complete .* (?:-s|-l) .*", text, re.M):
        names = ["-" + name for name in re.findall(r" -s (\w)", line)]
        names += ["--" + name for name in re.findall(r" -l ([-\w]+)", line)]
        found |= dict.fromkeys(names, " -x " in line or " -r " in line)
    assert found == options
    loop = re.search(r"case (-i .*?)\n\s+set", text, re.S).group(1)
    subcommand = re.search(r"__fish_complete_subcommand -- ([^)]*)", text).group(1)
    for listed in (loop, subcommand):
        assert set(listed.replace("\\", "").split()) == values(options)
    assert f"'{ENGINES}'" in text and f"'{FORMATS}'" in text
    if shutil.which("fish"):
        subprocess.run(["fish", "--no-execute", str(prefix / FISH)], check=True)


def test_the_wheel_has_the_version_of_the_program(build_dir):
    """pyproject.toml reads it from CMakeLists.txt by this expression."""
    settings = (ROOT / "pyproject.toml").read_text()
    expression = re.search(r"^regex = '(.*)'", settings, re.M).group(1)
    version = re.search(expression, (ROOT / "CMakeLists.txt").read_text())["value"]
    told = subprocess.run([build_dir / "echion", "-V"], check=True, capture_output=True, text=True)
    assert told.stdout.split()[1] == version
