"""Files are written whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PathLike = str | os.PathLike[str]


def write_atomic(path: PathLike, data: bytes) -> Path:
    """Write `data` to `path` so that a reader, or a crash, never meets half a file.

    The bytes go to a temporary file in the same folder (so the final rename stays on one file system)
    and replace `path` in one step. Raises OSError as `open` does: the folder must exist.
    """
    with open_atomic(path) as file:
        file.write(data)
    return Path(path)


@contextmanager
def open_atomic(path: PathLike) -> Iterator[BinaryIO]:
    """As `write_atomic`, for what is written piece by piece; an exception leaves `path` as it was."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
