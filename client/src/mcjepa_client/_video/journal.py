"""What an unfinished run has done so far: one line of JSON a clip, on the disk before the next is begun.

A line that a crash cut short is dropped; its clip is computed again. Lines are read when they are needed: a
long video has many.
"""

import errno
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from mcjepa_client._errors import InputError
from mcjepa_client._video.names import printable

Record = dict[str, Any]
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})


class FolderInUseError(InputError):
    """Another process is writing the same results."""


class Journal:
    """The records of one folder: what is being computed, then the clips.

    Only one process at a time can have it open. Raises FolderInUseError when another one has.

    Attributes:
        header: the first record; this and the next two are empty while there is none.
        first, last: the first and the last clip.
        frames: how many frames the clips have.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = open(path, "a+b")  # noqa: SIM115 - open until close()
        except FileNotFoundError as error:  # another process has just moved the folder to its place
            raise _in_use(path) from error
        self.header: Record = {}
        self.first: Record = {}
        self.last: Record = {}
        self.frames = 0
        try:
            _lock(self._file, path)
            _check_there(self._file, path)
            self._drop_torn_line()
            for record in self._records():
                self._note(record)
        except BaseException:
            self._file.close()
            raise

    def clips(self) -> Iterator[Record]:
        """The clips from the first on."""
        records = self._records()
        next(records, None)
        return records

    def append(self, record: Record) -> None:
        """Returns when the record is on the disk."""
        self._file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._note(record)

    def close(self) -> None:
        self._file.close()

    def _note(self, record: Record) -> None:
        if not self.header:
            self.header = record
            return
        self.first = self.first or record
        self.last = record
        self.frames += len(record["frames"])

    def _records(self) -> Iterator[Record]:
        with open(self._path, "rb") as file:
            for line in file:
                yield json.loads(line)

    def _drop_torn_line(self) -> None:
        end = 0
        with open(self._path, "rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    end += len(line)
        self._file.truncate(end)


def check_unused(path: Path) -> None:
    """Raise FolderInUseError if another process has this journal open."""
    if path.is_file():
        with open(path, "a+b") as file:
            _lock(file, path)


def _lock(file: IO[bytes], path: Path) -> None:
    """Held until the file is closed or the process ends, however it ends.

    Warns where the file system has no locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _in_use(path) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"out: {printable(path.parent)}: the file system has no locks ({error.strerror}); "
            "nothing may write there at the same time",
            stacklevel=2,
        )


def _check_there(file: IO[bytes], path: Path) -> None:
    """The process that had it locked may just have finished and removed it."""
    try:
        same = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        same = False
    if not same:
        raise _in_use(path)


def _in_use(path: Path) -> FolderInUseError:
    return FolderInUseError(f"out: another process is writing to {printable(path.parent)}")
