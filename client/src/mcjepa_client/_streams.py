"""Standard streams: those that whoever started the command has closed, and lines for those that are open."""

import os
import re
import sys

_BYTE_OF_A_NAME = re.compile("[\udc80-\udcff]")  # that is not UTF-8, as Python holds it


def open_standard_streams() -> None:
    """Open descriptors 0 to 2 where they are closed: else the next files or sockets get their numbers."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it has the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def say(text: str) -> None:
    """Write a line to standard output, whatever its encoding is."""
    encoding = sys.stdout.encoding or "utf-8"  # in which not every name of a file can be written
    sys.stdout.write(_printable(text).encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stdout.flush()  # an error is to be met here, where it is reported


def complain(text: str) -> None:
    """Write a text to standard error as one line."""
    sys.stderr.write(f"mcjepa-client: {_printable(' '.join(text.split()))}\n")


def _printable(text: str) -> str:
    r"""Return a text with the bytes of names that are not UTF-8 as \xNN."""
    return _BYTE_OF_A_NAME.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
