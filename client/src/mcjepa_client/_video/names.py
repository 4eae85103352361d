"""Names of files in text."""

import os


def printable(path: str | os.PathLike[str]) -> str:
    r"""Return a path, or a text with some, so that it can be written anywhere: bytes not of UTF-8 as \xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
