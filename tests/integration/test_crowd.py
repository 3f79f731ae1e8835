"""Many threads at once, deeper than one round of reading has room for."""

import pytest

from attach_support import start_target, target_command

pytestmark = pytest.mark.usefixtures("needs_root")

THREADS = 120
DEPTH = 800  # of all together: some ten thousand pages on 3.8, none of them known beforehand


def test_each_sleeping_thread_has_its_stack_from_the_start(echion, python, tmp_path):
    command = target_command(python, "crowd", THREADS, DEPTH)
    with start_target(tmp_path, command) as crowd:
        options = ["-x", "0.5", "-i", "20000", "--engine", "clock"]
        profile = echion.run(["-p", str(crowd.pid)], *options).check().profile
        crowd.finish()
    whole = {
        sample.thread for sample in profile.samples if sample.names.count("descend") == DEPTH
    }
    assert len({name for name in whole if "crowd-" in name}) == THREADS
    # Nothing is left of the time before a thread's stack was known: it is known from its start.
    crowds = [sample for sample in profile.samples if "crowd-" in sample.thread]
    assert all(sample.names.count("descend") == DEPTH for sample in crowds)
