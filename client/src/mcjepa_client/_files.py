"""Files are written whole or not at all."""

import os
import secrets
from pathlib import Path

PathLike = str | os.PathLike[str]


def write_atomic(path: PathLike, data: bytes) -> Path:
    """Write `data` to `path` so that a reader, or a crash, never meets half a file.

    The bytes go to a temporary file in the same folder (so the final rename stays on one file system)
    and replace `path` in one step. Raises OSError as `open` does: the folder must exist.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target
