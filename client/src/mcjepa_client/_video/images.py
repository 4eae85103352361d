"""Folders and patterns of image files as a video, animated images, and cameras."""

import io
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as pillow

from mcjepa_client._errors import VideoError
from mcjepa_client._extras import require_opencv
from mcjepa_client._video.decode import FORMATS, decode_image, reason_of, to_rgb, undecodable
from mcjepa_client._video.frames import Frame, Image, SourceInfo
from mcjepa_client._video.lengths import missing_bytes
from mcjepa_client._video.names import printable

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".webp"})
ANIMATED = (*FORMATS, "GIF")
_GIF_DELAY, _SHORTEST_GIF_DELAY = 100, 20  # ms: what browsers and FFmpeg take for shorter ones


@dataclass(frozen=True)
class ImageSource:
    """Image files in a row. They carry no times, so frame i is at i / fps seconds."""

    name: str
    files: tuple[Path, ...]
    fps: float

    def info(self) -> SourceInfo:
        height = width = None
        with suppress(VideoError):  # the first may be left out
            height, width = read_image(self.files[0]).shape[:2]
        return SourceInfo(len(self.files), len(self.files) / self.fps, width, height)

    def frames(self, start: float = 0.0) -> Iterator[Frame]:
        for index, file in enumerate(self.files):
            yield Frame(index, index / self.fps, partial(read_image, file))


@dataclass(frozen=True)
class AnimationSource:
    """A GIF, or a PNG or WebP with several frames, with the times of the file."""

    address: str

    @property
    def name(self) -> str:
        return printable(self.address)

    def info(self) -> SourceInfo:
        durations: list[float] = []
        with self._open() as image:
            with suppress(VideoError):  # reading the frames will say what is wrong
                durations.extend(_milliseconds(image) for _ in self._seek(image))
            return SourceInfo(len(durations), sum(durations) / 1000, image.width, image.height)

    def frames(self, start: float = 0.0) -> Iterator[Frame]:
        elapsed, count = 0.0, 0  # ms, frames
        with self._open() as image:
            for index in self._seek(image):
                yield Frame(index, elapsed / 1000, partial(to_rgb, image.copy()))
                elapsed += _milliseconds(image)
                count = index + 1
        if missing_bytes(self.address):
            raise VideoError(f"{self.name}: truncated after {count} frames", frames=count)

    def _open(self) -> Any:
        data = _read(Path(self.address))
        try:
            return pillow.open(io.BytesIO(data), formats=ANIMATED)
        except Exception as error:  # decoders raise anything at all on damaged bytes
            raise undecodable(self.name, error, len(data)) from error

    def _seek(self, image: Any) -> Iterator[int]:
        """Load one frame after the other."""
        first = 1 if getattr(image, "default_image", False) else 0
        index = 0
        try:
            for index in range(image.n_frames - first):
                image.seek(index + first)
                image.load()
                yield index
        except Exception as error:
            where = f"{self.name}: damaged after {index} frames"
            raise VideoError(f"{where}: {reason_of(error)}", frames=index) from error


@dataclass(frozen=True)
class CameraSource:
    """Camera `number` of this machine. Times are those at which a frame arrived; it goes on for ever."""

    number: int

    @property
    def name(self) -> str:
        return f"camera {self.number}"

    def info(self) -> SourceInfo:
        return SourceInfo()

    def frames(self, start: float = 0.0) -> Iterator[Frame]:
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
            yield Frame(index, now - began, partial(np.ascontiguousarray, bgr[..., ::-1]))
            index += 1


def is_image(path: Path) -> bool:
    """Whether a file is one of the images that can be decoded here, by its name or its first bytes."""
    if path.suffix.lower() in SUFFIXES:
        return True
    with open(path, "rb") as file:
        head = file.read(12)
    return head.startswith((b"GIF8", b"\x89PNG")) or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


def open_image(path: Path, fps: float) -> ImageSource | AnimationSource:
    """The source that one image file is: several frames, or one."""
    animation = AnimationSource(str(path))
    try:
        with animation._open() as image:
            moves = image.format == "GIF" or getattr(image, "is_animated", False)
    except VideoError:
        moves = False  # reading it will say what is wrong
    return animation if moves else ImageSource(animation.name, (path,), fps)


def natural_order(path: Path) -> tuple[tuple[int, int | str], ...]:
    """A key that sorts frame2 before frame10."""
    parts = re.split(r"(\d+)", path.as_posix())
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts)


def read_image(path: Path) -> Image:
    """(H, W, 3) uint8 RGB, upright: see `decode_image`. Raises VideoError when that cannot be had."""
    return decode_image(_read(path), printable(path))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise VideoError(f"{printable(path)}: cannot be read: {error.strerror or error}") from error


def _milliseconds(image: Any) -> float:
    duration = float(image.info.get("duration") or 0)
    return _GIF_DELAY if image.format == "GIF" and duration < _SHORTEST_GIF_DELAY else duration
