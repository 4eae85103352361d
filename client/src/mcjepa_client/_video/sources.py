"""From what a caller names to a source of frames."""

import glob
import math
import os
from pathlib import Path
from typing import TypeAlias

from mcjepa_client._errors import InputError
from mcjepa_client._video.container import ContainerSource
from mcjepa_client._video.frames import Source
from mcjepa_client._video.images import SUFFIXES, CameraSource, ImageSource, natural_order

VideoInput: TypeAlias = str | os.PathLike[str] | int
"""A video file, a folder of image files, a pattern of them, a network address, or the number of a camera."""

DEFAULT_FPS = 25.0


def open_source(source: VideoInput, fps: float = DEFAULT_FPS) -> Source:
    """The source that `source` names: see `Client.video`. `fps` is for image files, which carry no times.

    Raises InputError when there is no such thing.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise InputError(f"fps: expected a positive number, got {fps!r}")
    if isinstance(source, bool) or not isinstance(source, int | str | os.PathLike):
        raise InputError(f"source: expected a path, a pattern, an address or a camera number, got {source!r}")
    if isinstance(source, int):
        return CameraSource(source)
    text = os.fspath(source)
    if "://" in text:
        return ContainerSource(text)
    path = Path(text)
    if path.is_dir():
        return _images(text, [file for file in path.iterdir() if file.suffix.lower() in SUFFIXES], fps)
    if path.exists():
        return ContainerSource(text)
    if glob.has_magic(text):
        return _images(text, [Path(name) for name in glob.glob(text, recursive=True)], fps)
    raise InputError(f"source: there is no {text}")


def _images(name: str, files: list[Path], fps: float) -> ImageSource:
    found = sorted((file for file in files if file.is_file()), key=natural_order)
    if not found:
        raise InputError(f"source: there are no images in {name}")
    return ImageSource(name, tuple(found), fps)
