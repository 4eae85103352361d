"""From what a caller names to a source of frames."""

import glob
import os
from numbers import Real
from pathlib import Path
from typing import TypeAlias

from mcjepa_client._errors import InputError
from mcjepa_client._video.container import ContainerSource
from mcjepa_client._video.frames import Source
from mcjepa_client._video.images import (
    SUFFIXES,
    CameraSource,
    ImageSource,
    is_image,
    natural_order,
    open_image,
)
from mcjepa_client._video.names import printable

VideoInput: TypeAlias = str | os.PathLike[str] | int
"""A video file, a folder of image files, a pattern of them, a network address, or the number of a camera."""

DEFAULT_FPS = 25.0
#: Of image files: the overlay video holds times of 1/90,000 s, and at most 13 hours between two of them.
MIN_FPS, MAX_FPS = 1 / 3600, 1000.0


def open_source(source: VideoInput, fps: float = DEFAULT_FPS) -> Source:
    """The source that `source` names: see `Client.video`. `fps` is for image files, which carry no times.

    Raises InputError when there is no such thing.
    """
    if isinstance(fps, bool) or not isinstance(fps, Real) or not MIN_FPS <= fps <= MAX_FPS:
        raise InputError(f"fps: expected 1/3600 (a frame an hour) to {MAX_FPS:g}, got {fps!r}")
    if isinstance(source, bool) or not isinstance(source, int | str | os.PathLike):
        raise InputError(f"source: expected a path, a pattern, an address or a camera number, got {source!r}")
    if isinstance(source, int):
        return CameraSource(source)
    text = os.fspath(source)
    path = Path(text)
    if os.path.isdir(text):
        return _images(text, [file for file in path.iterdir() if _is_frame(file)], fps)
    if os.path.isfile(text) and is_image(path):
        return open_image(path, fps)
    if os.path.exists(text) or "://" in text:
        return ContainerSource(text)
    if glob.has_magic(text):
        return _images(text, [Path(name) for name in glob.glob(text, recursive=True)], fps)
    raise InputError(f"source: there is no {printable(text)}")


def _is_frame(file: Path) -> bool:
    """Names that begin with a dot are what other programs and systems leave beside the files."""
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".")


def _images(name: str, files: list[Path], fps: float) -> ImageSource:
    found = sorted((file for file in files if file.is_file()), key=natural_order)
    if not found:
        raise InputError(f"source: there are no images in {printable(name)}")
    return ImageSource(printable(name), tuple(found), fps)
