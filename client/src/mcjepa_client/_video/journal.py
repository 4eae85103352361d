"""What an unfinished run has done so far: one line of JSON a clip, on the disk before the next is begun.

A line that a crash cut short is dropped; its clip is computed again. Lines are read when they are needed: a
long video has many.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from mcjepa_client._errors import InputError

Record = dict[str, Any]


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
        self._file = open(path, "a+b")  # noqa: SIM115 - open until close()
        self.header: Record = {}
        self.first: Record = {}
        self.last: Record = {}
        self.frames = 0
        try:
            _lock(self._file, path)
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


def _lock(file: IO[bytes], path: Path) -> None:
    """Held until the file is closed or the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FolderInUseError(f"out: another process is writing to {path.parent}") from error
