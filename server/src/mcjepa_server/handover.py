"""Large buffers from one process to another by a file in memory: a socket takes many turns for a frame."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any, cast

INLINE_BYTES = 56 * 1024  # by the socket, at once: sooner sent than a file is opened


class SharedFile:
    """A file that other processes of this user can open by its path, and that goes with this object."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):  # Linux: needs no file system, leaves nothing behind
            self._descriptor = os.memfd_create("mcjepa")
            self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        else:
            import tempfile  # not in every process that decodes

            self._descriptor, self.path = tempfile.mkstemp()
            weakref.finalize(self, os.unlink, self.path)
        weakref.finalize(self, os.close, self._descriptor)

    def clear(self) -> None:
        if os.fstat(self._descriptor).st_size:  # sooner asked than done
            os.ftruncate(self._descriptor, 0)


def hand_over(values: object, path: str) -> object:
    """The same value; pickled, large bytes that it is, or that are in the tuple, go by the file."""
    if not goes_by_file(values):
        return values
    if isinstance(values, tuple):
        return tuple(hand_over(value, path) for value in values)
    return _Handed(cast(bytes, values), path)


def goes_by_file(values: object) -> bool:
    """Whether it is, or the tuple has in it, bytes too large for the socket."""
    if type(values) is tuple:
        return any(map(goes_by_file, values))
    return isinstance(values, bytes) and len(values) > INLINE_BYTES


class _Handed:
    """Pickled, it writes the bytes to the end of the file; unpickled, it is the bytes again."""

    def __init__(self, data: bytes, path: str) -> None:
        self._data, self._path = data, path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        with open(self._path, "ab") as file:
            start = file.tell()
            file.write(self._data)
        return _read, (self._path, start, len(self._data))


def _read(path: str, start: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(size)
