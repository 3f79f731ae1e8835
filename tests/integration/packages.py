"""The packages that scripts/packages has installed for an interpreter."""

from __future__ import annotations

import pathlib

from interpreters import Interpreter, made_folder

NOTE = "echion-packages"  # in a set's folder: the list that it has been installed from


def packages_folder() -> pathlib.Path:
    return pathlib.Path(made_folder(), "packages")


def find_packages(python: Interpreter, *names: str, variant: str = "") -> pathlib.Path | str:
    """The folder with the named packages for an interpreter, or why there is none. `variant`: what a
    set that is not the ordinary one is called behind its version (greenlet-1.1.3)."""
    name = "%d.%d" % python.minor + "t" * python.is_free_threaded + f"-{variant}" * bool(variant)
    folder = packages_folder() / name
    if not (folder / NOTE).exists():
        return f"scripts/packages has not installed its set {name}"
    missing = [one for one in names if not (folder / one).exists()]
    return f"no {', '.join(missing)} in the set {name}" if missing else folder
