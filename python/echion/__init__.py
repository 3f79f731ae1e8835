"""Echion samples the Python stacks of a running program. The program is `echion`, no module: this
package is there for `python -m echion`."""
