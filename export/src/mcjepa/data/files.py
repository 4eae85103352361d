"""Picture files in folders and in tar archives, seen as one list of things that can be read by position."""

import logging
import os
import re
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"})

log = logging.getLogger(__name__)
_skip_lock = threading.Lock()  # one for all readers, so that a reader can be pickled


class FileRef(NamedTuple):
    """One file on disk, or one member of a tar archive. Holds no open handle: safe to share and to pickle."""

    source: Path  # the folder or the archive it was found in
    name: str  # path inside the source, with forward slashes
    offset: int = -1  # byte position in the archive; -1 for a file in a folder
    size: int = -1  # bytes in the archive; -1 for a file in a folder

    def read(self) -> bytes:
        """The bytes of the file. Raises OSError where it is gone or shorter than its archive says."""
        if self.offset < 0:
            return (self.source / self.name).read_bytes()
        with open(self.source, "rb", buffering=0) as archive:
            data = os.pread(archive.fileno(), self.size, self.offset)  # no shared position: safe with threads
        if len(data) != self.size:
            raise OSError(f"{self}: {len(data)} of {self.size} bytes, the archive is truncated")
        return data

    def __str__(self) -> str:
        return f"{self.source}/{self.name}" if self.offset < 0 else f"{self.source}:{self.name}"


class TolerantReader:
    """Reads pictures, and remembers and reports once each that it could not read.

    Attributes:
        skipped: name -> reason of every file that was unreadable.
    """

    def __init__(self) -> None:
        self.skipped: dict[str, str] = {}

    def read(self, file: FileRef) -> np.ndarray | None:
        """The picture as uint8 RGB (H, W, 3), or None where it is unreadable."""
        name = str(file)
        if name in self.skipped:
            return None
        try:
            return decode_rgb(file.read())
        except (OSError, ValueError) as error:
            self.skip(name, str(error))
            return None

    def skip(self, name: str, reason: str) -> None:
        """Count `name` among the skipped, with one warning however often it comes up."""
        with _skip_lock:
            if name not in self.skipped:
                self.skipped[name] = reason
                log.warning("skipped %s: %s (%d skipped so far)", name, reason, len(self.skipped))


def list_images(path: Path) -> list[FileRef]:
    """All picture files under a folder or in a .tar, folder by folder in natural order (9 before 10).

    Hidden files and folders are left out. Raises FileNotFoundError for a missing path, ValueError for what
    is neither.
    """
    if path.is_dir():
        found = _walk(path)
    elif path.suffix.lower() == ".tar" and path.is_file():
        found = _members(path)
    elif path.exists():
        raise ValueError(f"{path}: expected a folder or a .tar of images")
    else:
        raise FileNotFoundError(f"{path}: no such folder or .tar")
    return sorted((ref for ref in found if _is_image(ref.name)), key=_order)


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key that compares runs of digits as numbers; the name itself settles ties (7 and 07)."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name


def decode_rgb(data: bytes) -> np.ndarray:
    """Decode an encoded picture to uint8 RGB (H, W, 3), turned upright by its EXIF orientation.

    Raises ValueError where it cannot be decoded or is cut short (OpenCV alone would fill the rest with grey).
    """
    if not _is_whole(data):
        raise ValueError("the file is truncated")
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error as error:  # for instance a header that claims more pixels than OpenCV allows
        raise ValueError(f"cannot be decoded: {error}") from error
    if bgr is None:
        raise ValueError("cannot be decoded as an image")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _is_whole(data: bytes) -> bool:
    if data.startswith(b"\xff\xd8"):  # JPEG: an end of image after the last start of scan
        return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    if data.startswith(b"\x89PNG"):
        return b"IEND" in data[-1024:]
    return True


def _order(file: FileRef) -> tuple[object, object]:
    folder, _, base = file.name.rpartition("/")
    return natural_key(folder), natural_key(base)  # apart, so that folders 7 and 07 do not mix


def _is_image(name: str) -> bool:
    hidden = name.startswith(".") or "/." in name
    return not hidden and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _walk(folder: Path) -> Iterator[FileRef]:
    for parent, _, names in os.walk(folder):
        inside = Path(parent).relative_to(folder)
        for name in names:
            yield FileRef(folder, (inside / name).as_posix())


def _members(archive: Path) -> Iterator[FileRef]:
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if member.isfile():
                    yield FileRef(archive, member.name.removeprefix("./"), member.offset_data, member.size)
    except tarfile.TarError as error:  # what came before the damage is still good
        log.warning("%s: damaged archive, the rest of it is left out: %s", archive, error)
