"""Large buffers from one process to another by a file in memory: a pipe takes dozens of turns for a frame."""

from __future__ import annotations

import math
import os
import tempfile
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from mcjepa_server.engine import Uint8Array


class SharedFile:
    """A file that other processes of this user can open by its path, and that goes with this object."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):  # Linux: needs no file system, leaves nothing behind
            descriptor = os.memfd_create("mcjepa")
            self.path = f"/proc/{os.getpid()}/fd/{descriptor}"
            weakref.finalize(self, os.close, descriptor)
        else:
            descriptor, self.path = tempfile.mkstemp()
            os.close(descriptor)
            weakref.finalize(self, os.unlink, self.path)

    def clear(self) -> None:
        os.truncate(self.path, 0)


def hand_over(values: object, path: str) -> object:
    """The same value; when it is pickled, the bytes and images in it (it may be a tuple) go by the file."""
    if type(values) is tuple:
        return tuple(hand_over(value, path) for value in values)
    if isinstance(values, bytes) or (isinstance(values, np.ndarray) and values.dtype == np.uint8):
        return _Handed(values, path)
    return values


class _Handed:
    """Pickled, it writes the buffer to the end of the file; unpickled, it is the buffer again."""

    def __init__(self, buffer: bytes | Uint8Array, path: str) -> None:
        self._buffer, self._path = buffer, path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        with open(self._path, "ab") as file:
            start = file.tell()
            if isinstance(self._buffer, bytes):
                file.write(self._buffer)
                return _read, (self._path, start, len(self._buffer))
            file.write(np.ascontiguousarray(self._buffer).data)
        return _read_array, (self._path, start, self._buffer.shape)


def _read(path: str, start: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(size)


def _read_array(path: str, start: int, shape: tuple[int, ...]) -> Uint8Array:
    return np.fromfile(path, np.uint8, math.prod(shape), offset=start).reshape(shape)
