"""What the agent's library brings into a process."""

import subprocess


# The one function of the C library that it stands in front of (userspace/platform/linux/start_watch.cpp).
IN_FRONT = {"pthread_condattr_setclock"}


def test_it_exports_its_entry_points_only(build_dir):
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", "--format=posix", str(build_dir / "libechion.so")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    names = {line.split()[0] for line in listing.splitlines()}
    assert IN_FRONT < names and all(name.startswith("echion_") for name in names - IN_FRONT), names
