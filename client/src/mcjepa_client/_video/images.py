"""Folders and patterns of image files as a video, and cameras."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mcjepa_client._errors import VideoError
from mcjepa_client._extras import require_opencv
from mcjepa_client._video.frames import Frame, Image, SourceInfo

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp"})
_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG, _PNG_END = b"\x89PNG", b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class ImageSource:
    """Image files in a row. They carry no times, so frame i is at i / fps seconds."""

    name: str
    files: tuple[Path, ...]
    fps: float

    def info(self) -> SourceInfo:
        height, width = read_image(self.files[0]).shape[:2]
        return SourceInfo(len(self.files), len(self.files) / self.fps, width, height)

    def frames(self) -> Iterator[Frame]:
        for index, file in enumerate(self.files):
            yield Frame(index, index / self.fps, partial(read_image, file))


@dataclass(frozen=True)
class CameraSource:
    """Camera `number` of this machine. Times are those at which a frame arrived; it goes on for ever."""

    number: int

    @property
    def name(self) -> str:
        return f"camera {self.number}"

    def info(self) -> SourceInfo:
        return SourceInfo()

    def frames(self) -> Iterator[Frame]:
        capture = require_opencv().VideoCapture(self.number)
        try:
            yield from self._read(capture)
        finally:
            capture.release()

    def _read(self, capture: Any) -> Iterator[Frame]:
        index, began = 0, 0.0
        while True:
            ok, bgr = capture.read()
            now = time.monotonic()
            if not ok:
                raise VideoError(f"{self.name}: no picture after {index} frames", frames=index)
            began = began or now
            yield Frame(index, now - began, partial(_to_rgb, np.asarray(bgr, np.uint8)))
            index += 1


def natural_order(path: Path) -> tuple[tuple[int, int | str], ...]:
    """A key that sorts frame2 before frame10."""
    parts = re.split(r"(\d+)", path.as_posix())
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts)


def read_image(path: Path) -> Image:
    """(H, W, 3) uint8 RGB, turned upright by its EXIF tag. Raises VideoError, for half a file too.

    OpenCV gives a picture with a grey end for a truncated JPEG and says nothing, so the end is looked at.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise VideoError(f"{path}: cannot be read: {error.strerror or error}") from error
    cv2 = require_opencv()
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if _is_whole(data) else None
    if bgr is None:
        raise VideoError(f"{path}: damaged, truncated, or not an image ({len(data)} bytes)")
    return _to_rgb(np.asarray(bgr, np.uint8))


def _is_whole(data: bytes) -> bool:
    if data.startswith(_JPEG):
        return data.rstrip(b"\0").endswith(_JPEG_END) or _JPEG_END in data[-1024:]
    if data.startswith(_PNG):
        return data.rstrip(b"\0").endswith(_PNG_END) or _PNG_END in data[-1024:]
    return bool(data)


def _to_rgb(bgr: Image) -> Image:
    return np.ascontiguousarray(bgr[..., ::-1])
