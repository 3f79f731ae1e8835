"""Launching, against an agent that is played by the launched program itself (fake_agent.cpp)."""

from __future__ import annotations

import fcntl
import os
import pathlib
import pty
import resource
import signal
import subprocess
import termios
import time

import pytest

from austin_format import check_profile


@pytest.fixture
def fake(build_dir) -> str:
    return str(build_dir / "tests" / "fake_agent")


MAIN = "/srv/app.py:main:10"
WORK = "/srv/app.py:main:10;/srv/app.py:App.work:20"


def read_lines(path: pathlib.Path) -> list[str]:
    """The samples, without process and thread."""
    check_profile(path.read_text())
    samples = [line for line in path.read_text().splitlines() if line.startswith("P")]
    return [line.split(";", 2)[2] if line.count(";") > 1 else line for line in samples]


def test_the_profile_has_header_samples_sampler_and_footer(echion, fake):
    result = echion.run([fake, "exit", "0"], "-i", "250us").check()
    text = result.output.read_text()
    reading = check_profile(text)
    assert list(reading.metadata)[:5] == ["mode", "interval", "sampler", "engine", "python"]
    assert reading.metadata["mode"] == "wall"
    assert reading.metadata["interval"] == "250"
    assert reading.metadata["python"] == "3.12.7"
    assert reading.metadata["duration"] == "15000"
    assert reading.metadata["samples"] == "2"
    (pid,) = {sample.pid for sample in reading.samples}
    assert pid > 1
    assert text.split("\n\n")[1] == (
        f"P{pid};T0:MainThread;{MAIN} 5000\nP{pid};T0:MainThread;{WORK} 10000\n"
        f"P{pid};T0:echion.core.sampler 7000"
    )


def test_stealth_leaves_the_sampler_out(echion, fake):
    result = echion.run([fake, "exit", "0"], "-s").check()
    assert read_lines(result.output) == [f"{MAIN} 5000", f"{WORK} 10000"]


def test_settings_reach_the_agent(echion, fake):
    result = echion.run([fake, "settings"], "-i", "1.5ms", "--max-frames", "77").check()
    assert result.stdout == "1500000 0 0 77\n"
    result = echion.run([fake, "settings"], "-c", "-s").check()
    assert result.stdout == "1000000 1 1 2048\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_what_was_sampled_is_written_when_the_command_dies(echion, fake, number):
    result = echion.run([fake, "die", str(int(number))])
    assert result.returncode == 128 + number
    assert read_lines(result.output)[:2] == [f"{MAIN} 5000", f"{WORK} 10000"]


def test_several_processes_share_the_file_under_their_own_ids(echion, fake):
    script = f'"{fake}" exit 0; "{fake}" exit 0 & "{fake}" exit 0; wait; exit 9'
    result = echion.run(["sh", "-c", script], "-s")
    assert result.returncode == 9
    reading = check_profile(result.output.read_text())
    assert len({sample.pid for sample in reading.samples}) == 3
    assert len(reading.samples) == 6
    assert reading.metadata["processes"] == "3"


def test_exposure_ends_sampling_and_not_the_command(echion, fake):
    script = f'"{fake}" until-stopped 0; exit 5'
    with echion.start(["sh", "-c", script], "-x", "0.05", "-s") as running:
        running.wait_for("stopped")
        result = running.finish()
    assert result.returncode == 5
    assert read_lines(result.output) == [f"{MAIN} 5000", f"{WORK} 10000"]


def test_the_profile_is_there_before_the_command_ends(echion, fake, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = f'"{fake}" until-stopped 0; read line < "{gate}"; exit 6'
    with echion.start(["sh", "-c", script], "-x", "50ms", "-s") as running:
        running.wait_for("stopped")
        with open(gate, "w") as writer:
            # The agent has stopped; the footer follows without the command's doing.
            while "# duration" not in running._result.output.read_text():
                assert running.process.poll() is None
            writer.write("go\n")
        assert running.finish().returncode == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_to_echion_reaches_the_command_which_decides(echion, fake, number):
    with echion.start([fake, "until-signal", str(int(number))], "-s") as running:
        running.wait_ready()
        os.kill(running.process.pid, number)
        result = running.finish()
    assert result.returncode == 40
    assert read_lines(result.output) == [f"{MAIN} 5000", f"{WORK} 10000"]


def test_repeated_interrupts_lose_nothing(echion, fake):
    with echion.start([fake, "until-signal", str(int(signal.SIGTERM))]) as running:
        pid = running.wait_ready()
        # The command has SIGINT's default: the first ends it, the others find echion at work.
        for _ in range(5):
            os.kill(running.process.pid, signal.SIGINT)
        result = running.finish()
    assert result.returncode == 128 + signal.SIGINT
    assert not pathlib.Path(f"/proc/{pid}").exists()
    assert read_lines(result.output)[:2] == [f"{MAIN} 5000", f"{WORK} 10000"]


# One handler may interrupt another, which print() does not bear.
SAY = "import os, signal, sys\ndef say(text): os.write(1, text.encode() + b'\\n')\n"
COUNTS_HANGUPS = SAY + (
    "count = 0\n"
    "def on_hangup(*_):\n"
    "    global count\n"
    "    count += 1\n"
    "    say('hung up')\n"
    "signal.signal(signal.SIGHUP, on_hangup)\n"
    "signal.signal(signal.SIGTERM, lambda *_: (say('hang-ups %d' % count), os._exit(3)))\n"
    "if len(sys.argv) > 1: os.setpgid(0, 0)\n"
    "print('ready', flush=True)\n"
    "while True: signal.pause()\n"
)


@pytest.mark.parametrize("own_group", [True, False], ids=["own group", "same group"])
def test_a_signal_to_echion_reaches_the_command_once(build_dir, tmp_path, own_group):
    command = [str(build_dir / "echion"), "-o", str(tmp_path / "out"), "env", "-u", "LD_PRELOAD",
               "/usr/bin/python3", "-c", COUNTS_HANGUPS] + ["leave"] * own_group
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            os.kill(process.pid, signal.SIGHUP)
            assert process.stdout.readline() == "hung up\n"
            # Signals are taken in the order of their numbers: one that was passed on comes first.
            os.kill(process.pid, signal.SIGTERM)
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert out == "hang-ups 1\n"
    assert process.returncode == 3


def test_a_terminals_hang_up_reaches_the_command(build_dir, tmp_path):
    """The kernel tells the leader of the session only, which is echion in `ssh -t host echion …`."""
    script = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGHUP, lambda *_: os._exit(7))\n"
        "print('ready', flush=True)\n"
        "while True: signal.pause()\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        command = [str(build_dir / "echion"), "-o", str(tmp_path / "out"), "/usr/bin/python3", "-c",
                   script]
        os.execv(command[0], command)
    with open(terminal, "rb", buffering=0) as stream:
        assert stream.readline() == b"ready\r\n"
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    if ended[0] == 0:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
    assert ended[0] == pid and os.waitstatus_to_exitcode(ended[1]) == 7


def test_an_interrupt_from_the_terminal_reaches_the_command_once(build_dir, fake, tmp_path):
    """Ctrl-C goes to both by the terminal: echion must not add a second one."""
    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    counter = SAY + (
        "count = 0\n"
        "def on_interrupt(*_):\n"
        "    global count\n"
        "    count += 1\n"
        "    say('interrupted')\n"
        "signal.signal(signal.SIGINT, on_interrupt)\n"
        "signal.signal(signal.SIGTERM, lambda *_: (say('interrupts %d' % count), os._exit(3)))\n"
        "print('ready', flush=True)\n"
        "while True: signal.pause()\n"
    )
    primary, secondary = os.openpty()
    process = subprocess.Popen(
        [str(build_dir / "echion"), "-o", str(tmp_path / "out"), "env", "-u", "LD_PRELOAD",
         "/usr/bin/python3", "-c", counter],
        stdin=secondary, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=take_terminal,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        os.write(primary, b"\x03")
        assert process.stdout.readline() == "interrupted\n"
        # Signals are taken in the order of their numbers: one that echion passed on would come first.
        os.kill(process.pid, signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        assert out == "interrupts 1\n"
        assert process.returncode == 3
    finally:
        process.kill()
        os.close(primary)
        os.close(secondary)


def test_a_forked_child_does_not_hold_echion_up(echion, fake):
    with echion.start([fake, "forked"], "-s") as running:
        result = running.finish(timeout=30)
    assert result.returncode == 0
    assert read_lines(result.output) == [f"{MAIN} 5000", f"{WORK} 10000"]


def test_a_full_disk_is_told_once_and_fails(echion, fake):
    result = echion.run([fake, "rate", "20000"], output="/dev/full")
    assert result.returncode == 1
    assert result.stderr.count("No space left on device") == 1
    assert result.stderr.count("\n") == 1


def limit_file_sizes(size_bytes: int):
    def limit() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))

    return limit


def test_a_profile_over_the_limit_of_file_sizes_is_told(echion, fake):
    script = f'"{fake}" rate 20000; kill -XFSZ $$'
    result = echion.run(["sh", "-c", script], preexec_fn=limit_file_sizes(16 << 20))
    assert result.returncode == 1
    assert result.stderr.count("File too large") == 1 and result.stderr.count("\n") == 1
    text = result.output.read_text()
    assert (16 << 20) - 4096 < len(text) <= 16 << 20 and text.endswith("\n")


def test_the_command_may_die_of_the_limit_of_file_sizes(echion):
    result = echion.run(["sh", "-c", "kill -XFSZ $$"])
    assert result.returncode == 128 + signal.SIGXFSZ


def test_a_ring_over_the_limit_of_file_sizes_is_told(echion, fake):
    """Nothing is sampled then; the status is the command's."""
    command = ["sh", "-c", f'"{fake}" exit 0; exit 3']
    result = echion.run(command, preexec_fn=limit_file_sizes(20 << 10))
    assert result.returncode == 3
    assert result.stderr.count("ulimit -f") == 1 and result.stderr.count("\n") == 1
    assert not result.output.exists()


def test_a_closed_pipe_is_told_once_and_fails(echion, fake, tmp_path):
    fifo = tmp_path / "out"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with echion.start([fake, "until-signal", "15"], output=fifo) as running:
        running.wait_ready()
        os.close(reader)
        os.kill(running.process.pid, signal.SIGTERM)
        result = running.finish()
    assert result.returncode == 1
    assert result.stderr.count("Broken pipe") == 1


def test_a_fifo_that_nobody_reads_is_refused(echion, fake, tmp_path):
    fifo = tmp_path / "out"
    os.mkfifo(fifo)
    result = echion.run(["touch", tmp_path / "started"], output=fifo, timeout=30)
    assert result.returncode == 1
    assert result.stderr == f"echion: cannot write {fifo}: it is a FIFO that nobody reads\n"
    assert fifo.exists() and not (tmp_path / "started").exists()


def test_a_fifos_reader_may_come_a_moment_later(echion, fake, tmp_path):
    fifo = tmp_path / "out"
    os.mkfifo(fifo)
    with echion.start([fake, "exit", "0"], "-s", output=fifo) as running:
        text = fifo.read_text()
        running.finish().check()
    assert len(check_profile(text).samples) == 2


def test_an_output_that_another_echion_writes_is_refused(echion, fake, tmp_path):
    output = tmp_path / "out"
    with echion.start([fake, "until-signal", "15"], "-s", output=output) as running:
        running.wait_ready()
        second = echion.run(["touch", tmp_path / "started"], output=output)
        os.kill(running.process.pid, signal.SIGTERM)
        first = running.finish()
    assert second.returncode == 1
    assert second.stderr == f"echion: cannot write {output}: another program writes it at this moment\n"
    assert not (tmp_path / "started").exists()
    assert first.returncode == 40
    assert len(check_profile(output.read_text()).samples) == 2
    echion.run([fake, "exit", "0"], output=output).check()


def test_an_output_that_was_removed_is_told(echion, fake):
    with echion.start([fake, "until-signal", "15"]) as running:
        running.wait_ready()
        running._result.output.unlink()
        os.kill(running.process.pid, signal.SIGTERM)
        result = running.finish()
    assert result.returncode == 1
    assert "removed" in result.stderr


def test_the_process_id_in_the_outputs_name_is_the_commands(echion, fake, tmp_path):
    for pattern in ("%(pid).a", "%%(pid).b"):
        echion.run([fake, "exit", "0"], output=tmp_path / pattern).check()
    for suffix in ("a", "b"):
        (path,) = tmp_path.glob(f"*.{suffix}")
        assert {sample.pid for sample in check_profile(path.read_text()).samples} == {int(path.stem)}


def test_awkward_names_are_read_by_every_tool(echion, fake):
    result = echion.run([fake, "names"], "-s").check()
    reading = check_profile(result.output.read_text())
    assert {sample.thread for sample in reading.samples} >= {"Worker_3"}
    (awkward,) = [sample for sample in reading.samples if sample.iid == 3]
    assert awkward.thread == "a；b：c d␊e␍ 12"
    assert [(one.file, one.function, one.line) for one in awkward.frames] == [
        ("/a；b c:d␊/🐴 7.py", "f；g：h␊i 5", 1),
        ("", "🐴", 2),
        ("", "Task： 1； x 9", 0),
        ("␁␡.py", "bad\ufffd", 3),
    ]
    marked = [one for one in reading.samples if one.thread == "MainThread" and one.frames]
    assert [one.function for one in marked[0].frames][:2] == ["TRUNCATED", "INVALID"]
    assert marked[0].frames[-1].function == "GC"


def test_verbose_tells_what_happens(echion, fake):
    result = echion.run([fake, "exit", "0"], "-v").check()
    assert all(line.startswith("echion: ") for line in result.stderr.splitlines())
    assert "2 samples" in result.stderr and "sampler_cpu_ns" in result.stderr


def test_without_verbose_and_terminal_nothing_is_said(echion, fake):
    assert echion.run([fake, "exit", "0"]).check().stderr == ""
