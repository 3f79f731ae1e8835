"""Other profilers, started by a template of a command."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
from typing import Sequence

from interpreters import Interpreter
from runner import TIMEOUT_S

INTERVAL_US = 1000


@dataclasses.dataclass(frozen=True)
class Profiler:
    name: str
    template: str
    # The only interpreter that it can profile, where that is its own, and then runs the program itself.
    python: Interpreter | None = None

    def command(self, python: str, script: str, arguments: Sequence[str], output: str) -> list[str]:
        """The template's words with the places filled in; `{args}` alone becomes any number of words."""
        command: list[str] = []
        for word in shlex.split(self.template):
            if word == "{args}":
                command.extend(arguments)
            else:
                command.append(
                    word.replace("{python}", python)
                    .replace("{script}", script)
                    .replace("{args}", shlex.join(arguments))
                    .replace("{output}", output)
                    .replace("{interval_us}", str(INTERVAL_US))
                )
        return command


def parse_template(text: str) -> Profiler:
    """`NAME=COMMAND`. Raises ValueError for anything else."""
    name, equals, template = text.partition("=")
    if not name or not equals or not shlex.split(template):
        raise ValueError(f"not NAME='COMMAND …': {text!r}")
    if "{script}" not in template or "{output}" not in template:
        raise ValueError(f"{name}: the command needs {{script}} and {{output}}")
    return Profiler(name, template)


PYSPY = (
    "record --rate 1000 --format raw --idle --threads --full-filenames{mode} -o {output}"
    " -- {python} {script} {args}"
)
AUSTIN = "-i {interval_us} -o {output} {python} {script} {args}"
SAMPLING = (
    "-m profiling.sampling run --all-threads --mode wall --sampling-rate 1khz --collapsed -o {output}"
    " {script} {args}"
)


def find_installed() -> list[Profiler]:
    """Those of the known ones that are there. py-spy's default stops the program for each sample."""
    found = []
    if path := shutil.which("py-spy"):
        command = shlex.quote(path)
        found.append(Profiler("py-spy", f"{command} {PYSPY.replace('{mode}', '')}"))
        found.append(Profiler("py-spy-nb", f"{command} {PYSPY.replace('{mode}', ' --nonblocking')}"))
    if path := shutil.which("austin"):
        found.append(Profiler("austin", f"{shlex.quote(path)} {AUSTIN}"))
    if path := shutil.which("python3.15"):
        its_own = Interpreter(path, (3, 15, 0))
        found.append(Profiler("sampling", f"{shlex.quote(path)} {SAMPLING}", its_own))
    return found


@dataclasses.dataclass
class OtherResult:
    output: pathlib.Path
    report_path: pathlib.Path
    error: str = ""


def run(
    profiler: Profiler, python: str, script: str, arguments: Sequence[str], folder: pathlib.Path
) -> OtherResult:
    """Runs to the end, in a session of its own, which is ended with it."""
    result = OtherResult(folder / "other-profile", folder / "other-report.json")
    for path in (result.output, result.report_path):
        path.unlink(missing_ok=True)
    command = profiler.command(python, script, arguments, str(result.output))
    environment = dict(os.environ, ECHION_TEST_REPORT=str(result.report_path))
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        words, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        words = f"did not end within {TIMEOUT_S:.0f} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
    if not result.output.exists():
        last = (words.strip().splitlines() or [""])[-1]
        result.error = f"exit {process.returncode} without a profile: {last[:200]}"
    return result
