"""The command line as a user meets it: help, refusals, statuses."""

from __future__ import annotations

import pathlib
import re
import subprocess
import tempfile

import pytest


@pytest.fixture
def run(build_dir, tmp_path):
    def run_echion(*arguments: str, **keywords) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(build_dir / "echion"), *arguments],
            cwd=tmp_path,
            text=True,
            capture_output=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            **keywords,
        )

    return run_echion


def test_help_goes_to_standard_output(run):
    result = run("--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("\n") > 20
    assert max(map(len, result.stdout.splitlines())) <= 120


README = pathlib.Path(__file__).resolve().parents[2] / "README.md"


def read_help(run):
    """What it says of each option, and its usage of -w."""
    text = run("--help").stdout
    usage = next(line for line in text.splitlines() if line.endswith("-w PID"))
    entries = re.findall(
        r"^  (\S.*?)(?:\s{2,}|\n\s+)(\S.*(?:\n {4,}\S.*)*)", text.partition("Options:\n")[2], re.M
    )
    return {tuple(names.partition(" ")[0].split(",")): told for names, told in entries}, usage


def read_readme():
    """The same of its table, in which a row may have several options."""
    rows = {}
    for names, told in re.findall(r"^\| (`-.*?) \| (.*) \|$", README.read_text(), re.M):
        for group in names.split("; "):
            rows[tuple(re.findall(r"`(-[-a-z]+)", group, re.I))] = told
    return rows


def find_quantities(text):
    plain = re.sub(r"\s+", " ", text).replace("µ", "u").replace(",", "")
    found = re.findall(r"\b(\d+(?:\.\d+)?) ?((?:us|ms|[smh]|[KMGT]i?B?|days)\b)?", plain)
    return {number + unit for number, unit in found}


def test_help_and_readme_say_the_same(run):
    of_help, usage = read_help(run)
    of_readme = read_readme()
    assert len(of_help) > 15 and set(of_help) == set(of_readme)
    for names, told in of_help.items():
        missing = find_quantities(told) - find_quantities(of_readme[names])
        assert not missing, f"{names}: README does not mention {missing}"
    where = of_readme["-w", "--where"]
    for option in re.findall(r"(?<!\S)\[?\[?(-[-a-z]+)", usage):
        assert option == "-w" or f"`{option}`" in where, f"README does not mention {option} with -w"


def test_version(run):
    result = run("-V")
    assert result.returncode == 0
    assert result.stdout.startswith("echion ")


def test_help_names_all_units_of_time(run):
    text = run("--help").stdout
    assert "Times take a unit: us, ms, s, m, h or d." in text
    assert run("-x", "1d", "-o", "out", "true").returncode == 0


@pytest.mark.parametrize("size", ["20k", "1m", "1g", "20kib", "20KB"])
def test_sizes_take_units_of_any_case(run, size):
    assert run("--max-output", size, "-o", "out", "true").returncode == 0


def test_a_size_with_a_wrong_unit_is_told_as_that(run):
    result = run("--max-output", "20x", "true")
    assert result.returncode == 2
    assert "the unit K, M, G or T" in result.stderr and "at the least" not in result.stderr


def test_nothing_at_all_shows_help_and_fails(run):
    result = run()
    assert (result.returncode, result.stdout) == (2, "")
    assert "Usage:" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["-i", "0", "true"],
        ["-i", "-1", "true"],
        ["-i", "often", "true"],
        ["-x", "0", "true"],
        ["-p", "1", "true"],
        ["-c", "-m", "true"],
        ["-c"],
        ["--no-such-option", "true"],
    ],
)
def test_nonsense_is_one_line_and_status_2(run, tmp_path, arguments):
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("echion: ") and result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_options_of_the_command_are_left_to_it(run):
    result = run("sh", "-c", 'echo "$@"', "sh", "-c", "--help", "-o", "--", "-x")
    assert result.stdout == "-c --help -o -- -x\n"


def test_two_dashes_end_the_options(run):
    assert run("-v", "--", "echo", "-x").stdout == "-x\n"


def test_standard_input_is_the_commands(build_dir, tmp_path):
    result = subprocess.run(
        [str(build_dir / "echion"), "cat"],
        input="to the command",
        text=True,
        capture_output=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert result.stdout == "to the command"


@pytest.mark.parametrize("status", [0, 1, 2, 77, 126, 127, 255])
def test_the_commands_status_is_ours(run, status):
    assert run("sh", "-c", f"exit {status}").returncode == status


@pytest.mark.parametrize("number", [1, 2, 3, 6, 9, 11, 13, 15])
def test_a_signals_number_is_told_as_a_shell_does(run, number):
    assert run("sh", "-c", f"kill -{number} $$").returncode == 128 + number


def test_a_command_that_is_not_there(run, tmp_path):
    for name in ("no-such-command", "./no-such-command", "/no/such/command"):
        result = run(name)
        assert result.returncode == 127
        assert result.stderr == f"echion: cannot run '{name}': command not found\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "shown"),
    [("", "''"), ("no\nsuch\x1b[31m", "'no\\x0asuch\\x1b[31m'"), ("ää/é", "'ää/é'")],
)
def test_names_are_quoted_and_cannot_play_with_the_terminal(run, name, shown):
    result = run(name)
    assert result.returncode == 127
    assert result.stderr == f"echion: cannot run {shown}: command not found\n"


def test_the_outputs_name_cannot_play_with_the_terminal(run):
    result = run("-o", "no/such\x1b]0;\n/é", "true")
    assert result.returncode == 1
    assert "no/such\\x1b]0;\\x0a/é" in result.stderr and result.stderr.count("\n") == 1


def test_a_command_that_is_not_executable(run, tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("echo\n")
    result = run("./plain")
    assert result.returncode == 126
    assert result.stderr.count("\n") == 1 and "not executable" in result.stderr
    assert run(str(tmp_path)).returncode == 126
    assert list(tmp_path.iterdir()) == [plain]


def test_a_script_whose_interpreter_is_missing(run, tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    result = run("./script")
    assert result.returncode == 127
    assert "interpreter" in result.stderr


@pytest.mark.parametrize("name", ["no/such/folder/out", ".", ""])
def test_an_unwritable_output_keeps_the_command_from_starting(run, tmp_path, name):
    result = run("-o", name, "touch", "started")
    assert result.returncode == (2 if name == "" else 1)
    assert result.stderr.startswith("echion: ") and result.stderr.count("\n") == 1
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("option", [["-o", ""], ["--output", ""], ["--output="], ["-vo", ""]])
@pytest.mark.parametrize("subject", [["touch", "started"], ["-p", "1"]])
def test_an_empty_name_of_the_output_is_told_as_that(run, tmp_path, option, subject):
    result = run(*option, *subject)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("echion: -o: the name of the output is empty")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["-i", "--pid", "-w", "--max-output"])
def test_an_empty_value_is_told_as_that(run, option):
    result = run(option, "", "true")
    assert result.returncode == 2
    assert result.stderr.startswith(f"echion: {option}: the value is empty")


@pytest.mark.parametrize("option", ["--help", "-V", "--doctor"])
def test_standard_output_that_takes_nothing_is_told(build_dir, option):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [build_dir / "echion", option], stdout=full, stderr=subprocess.PIPE, timeout=60, text=True
        )
    assert done.returncode == 1
    assert done.stderr == "echion: cannot write to standard output: No space left on device\n"


def test_no_python_is_said_and_leaves_no_file(run, tmp_path):
    result = run("-o", "out", "true")
    assert result.returncode == 0
    assert "no Python was seen" in result.stderr and result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "script", ["LD_PRELOAD= {} -c pass", "for fd in /proc/$$/fd/*; do fd=${{fd##*/}}; "
               "[ $fd -gt 9 ] && [ $fd -ne 255 ] && eval \"exec $fd>&-\"; done; {} -c pass"],
    ids=["no preload", "closed descriptors"],
)
def test_what_may_have_kept_the_agent_out_is_said(run, any_python, script):
    result = run("-o", "out", "bash", "-c", script.format(any_python.path))
    assert result.returncode == 0, result.stderr
    assert "environment was changed, descriptors were closed" in result.stderr


def test_no_python_leaves_an_older_profile_alone(run, tmp_path):
    (tmp_path / "out").write_text("older")
    run("-o", "out", "true")
    assert (tmp_path / "out").read_text() == "older"


def test_a_static_program_is_told_as_such(run, tmp_path):
    source = tmp_path / "static.c"
    source.write_text("int main(void) { return 5; }\n")
    subprocess.run(["cc", "-static", "-o", str(tmp_path / "static"), str(source)], check=True)
    result = run("./static")
    assert result.returncode == 5
    assert "statically" in result.stderr


@pytest.fixture
def open_folder():
    """A folder that other users can look into, which pytest's own is not."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        yield folder


def test_a_set_uid_program_is_told_as_such(build_dir, open_folder, needs_root):
    for name, source, mode in [
        ("privileged", pathlib.Path("/usr/bin/true"), 0o4755),
        ("echion", build_dir / "echion", 0o755),
        ("libechion.so", build_dir / "libechion.so", 0o755),
    ]:
        (open_folder / name).write_bytes(source.read_bytes())
        (open_folder / name).chmod(mode)
    result = subprocess.run(
        [str(open_folder / "echion"), "-o", "/dev/null", str(open_folder / "privileged")],
        text=True,
        capture_output=True,
        timeout=60,
        user=65534,
        group=65534,
        extra_groups=[],
    )
    assert result.returncode == 0
    assert "set-uid" in result.stderr


def test_without_its_agent_echion_says_so(build_dir, tmp_path):
    copy = tmp_path / "echion"
    copy.write_bytes((build_dir / "echion").read_bytes())
    copy.chmod(0o755)
    result = subprocess.run([str(copy), "true"], text=True, capture_output=True, timeout=60)
    assert result.returncode == 1
    assert "libechion.so" in result.stderr


def test_an_existing_preload_stays(run):
    result = run("sh", "-c", "echo $LD_PRELOAD", env={"LD_PRELOAD": "/usr/lib/other.so", "PATH": "/bin"})
    first, _, rest = result.stdout.strip().partition(":")
    assert first.endswith("/libechion.so") and rest == "/usr/lib/other.so"
