"""`python -m echion`: becomes the program `echion` that was installed with this package."""

import os
import signal
import sys
import sysconfig


def find_program():
    """The installed program; None if it is in none of the folders to which pip writes programs."""
    package = os.path.dirname(os.path.abspath(__file__))
    folders = [
        os.path.join(os.path.dirname(package), "bin"),  # pip install --target
        sysconfig.get_path("scripts"),
        sysconfig.get_path("scripts", "%s_user" % os.name),
    ]
    if package.startswith(sysconfig.get_path("platlib", "%s_user" % os.name) + os.sep):
        folders.reverse()
    for folder in folders:
        program = os.path.join(folder, "echion")
        if os.access(os.path.join(folder, "libechion.so"), os.R_OK) and os.access(program, os.X_OK):
            return program
    return None


def main():
    program = find_program()
    if program is None:
        sys.exit("echion: the program echion is not where pip puts programs: install it again")
    # The interpreter ignores these; the program and its command would inherit that.
    for name in ("SIGPIPE", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    os.execv(program, [program] + sys.argv[1:])


if __name__ == "__main__":
    main()
