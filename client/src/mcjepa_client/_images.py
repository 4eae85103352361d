"""Anything a caller may hold as an image, turned into the bytes of an image file."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mcjepa_client._errors import InputError
from mcjepa_client.flow_io import encode_png


@runtime_checkable
class PillowImage(Protocol):
    """A `PIL.Image.Image`, recognised without needing Pillow."""

    def convert(self, mode: str) -> Any: ...


ImageInput = str | os.PathLike[str] | bytes | bytearray | memoryview | NDArray[np.uint8] | PillowImage
"""A path, the bytes of an image file, a uint8 array (H, W, 3) RGB or (H, W) grey, or a PIL image."""


def encode_image(image: ImageInput, name: str) -> bytes:
    """The bytes to send for one image.

    Files and bytes go as they are; the server decodes them and applies their EXIF rotation. Arrays and PIL
    images are encoded as PNG, which loses nothing. `name` is the argument's name for error messages.

    Raises:
        InputError: file missing, unreadable or empty; array of another dtype or shape; unknown type.
    """
    if isinstance(image, str | os.PathLike):
        return _read(Path(image), name)
    if isinstance(image, bytes | bytearray | memoryview):
        return _not_empty(bytes(image), name)
    if isinstance(image, np.ndarray):
        return encode_png(check_pixels(image, name), level=1)
    if isinstance(image, PillowImage):
        return encode_png(np.asarray(image.convert("RGB")), level=1)
    raise InputError(
        f"{name}: expected a path, bytes, a uint8 array or a PIL image, got {type(image).__name__}"
    )


def check_pixels(image: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """`image` itself when it is uint8 (H, W, 3) RGB or (H, W) grey. Raises InputError otherwise."""
    if image.dtype != np.uint8:
        hint = "; scale floats to 0..255 first" if image.dtype.kind == "f" else ""
        raise InputError(f"{name}: expected dtype uint8, got {image.dtype}{hint}")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or 0 in image.shape:
        raise InputError(f"{name}: expected shape (H, W, 3) RGB or (H, W) grey, got {image.shape}")
    return image


def check_same_size(images: Sequence[ImageInput], name: str) -> None:
    """Frames of one call must be equally large. Looks at arrays only: files are measured by the server."""
    sizes = [image.shape[:2] for image in images if isinstance(image, np.ndarray)]
    for size in sizes[1:]:
        if size != sizes[0]:
            raise InputError(f"{name}: frames differ in size, {sizes[0]} and {size} (height, width)")


def _read(path: Path, name: str) -> bytes:
    try:
        return _not_empty(path.read_bytes(), f"{name} {path}")
    except OSError as error:
        raise InputError(f"{name}: cannot read {path}: {error.strerror or error}") from error


def _not_empty(data: bytes, name: str) -> bytes:
    if not data:
        raise InputError(f"{name}: the image is empty (0 bytes)")
    return data
