"""Standard streams that whoever started the command has closed."""

import os
import sys


def open_standard_streams() -> None:
    """Open descriptors 0 to 2 where they are closed: else the next files or sockets get their numbers."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it has the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
