"""Files are written whole or not at all."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mcjepa_client._errors import FileError, McjepaError, file_error

PathLike = str | os.PathLike[str]


def read_file(path: PathLike, name: str) -> bytes:
    """Return the bytes of a file. Raises a FileError that is an InputError too."""
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        cause = _of_the_system(error)
        message = f"{name}: cannot read {os.fsdecode(path)}: {cause.strerror or cause}"
        raise named(file_error(message, cause, is_input=True), path) from error


def _of_the_system(error: OSError | ValueError) -> OSError:
    """Return `error` itself, or what the system would say of a path with a null character."""
    return error if isinstance(error, OSError) else OSError(errno.EINVAL, str(error))


def named(error: FileError, path: PathLike) -> FileError:
    """Return `error`, with `path` as the file that it is about."""
    error.path = error.filename = os.fspath(path)
    return error


def write_atomic(path: PathLike, data: bytes) -> Path:
    """Write `data` to `path` so that a reader, or a crash, never meets half a file, and return the path.

    The bytes go to a temporary file in the same folder (so the final rename stays on one file system) and
    replace `path` in one step. Raises FileError when that cannot be done, for example because the folder is
    missing.
    """
    with open_atomic(path) as file:
        file.write(data)
    return Path(path)


@contextmanager
def open_atomic(path: PathLike) -> Iterator[BinaryIO]:
    """Open a file to be written piece by piece; an exception leaves `path` as it was (see `write_atomic`)."""
    target = Path(path)
    temporary = (
        target.parent / f".{secrets.token_hex(8)}.tmp"
    )  # a longer name than the target's may be too long
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _replace(temporary, target)
    except McjepaError:
        raise
    except OSError as error:  # it names the temporary file, or none
        message = f"cannot write {target}: {error.strerror or error}"
        raise named(file_error(message, error), target) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _replace(temporary: Path, target: Path) -> None:
    try:
        os.replace(temporary, target)
    except ValueError as error:
        raise _of_the_system(error) from error
