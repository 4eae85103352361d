"""Anything a caller may hold as an image, turned into pixels or into the bytes of an image file."""

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mcjepa_client._errors import InputError, McjepaError, file_error
from mcjepa_client._files import named, read_file
from mcjepa_client.flow_io import encode_png


@runtime_checkable
class ReadableFile(Protocol):
    """An open file, or what reads like one: `io.BytesIO`, an upload, a member of an archive."""

    def read(self) -> bytes: ...


ImageInput = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | NDArray[Any] | Image.Image | ReadableFile
)
"""A path, the bytes of an image file, an open one, an array (H, W, 3) RGB or (H, W) grey of uint8, uint16 or
bool, or a PIL image."""

# Samples of 16 bits, 0 to 65535.
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_WITHOUT_RANGE = ("I", "F")
_BITS_PER_SAMPLE = 258  # tag of a TIFF
_GREY = ("1", "L", "LA")
# A palette with transparency that does not become RGBA first makes Pillow warn, and La becomes LA alone.
_CONVERTED_FIRST = {"P": "RGBA", "PA": "RGBA", "La": "LA"}


def encode_image(image: ImageInput, name: str) -> bytes:
    """Return the bytes to send for one image.

    Files and bytes go as they are; the server decodes them and applies their EXIF rotation. Arrays and PIL
    images are encoded as PNG, which loses nothing of the pixels of `to_pixels`. `name` is the argument's name
    in messages.

    Raises:
        InputError: file missing, unreadable, empty or open as text; pixels of another shape or type; unknown
            type.
    """
    if isinstance(image, str | os.PathLike):
        return _not_empty(read_file(image, name), f"{name} {os.fspath(image)}")
    if isinstance(image, bytes | bytearray | memoryview):
        return _not_empty(bytes(image), name)
    if isinstance(image, np.ndarray | Image.Image):
        return encode_png(to_pixels(image, name), level=1)
    if isinstance(image, ReadableFile):
        return _not_empty(_read_open_file(image, name), name)
    raise InputError(
        f"{name}: expected a path, bytes, an open file, an array or a PIL image, got {type(image).__name__}"
    )


def to_pixels(image: object, name: str) -> NDArray[np.uint8]:
    """Return the pixels of an array or a PIL image, uint8 (H, W, 3) RGB or (H, W) grey.

    It is the conversion of the server: 16-bit samples are scaled to 8 bits, False and True become 0 and 255,
    transparency is dropped, and palettes, CMYK and the like become RGB.

    Raises:
        InputError: another shape or type, or samples whose range nobody knows, such as floats.
    """
    if isinstance(image, Image.Image):
        return _from_pillow(image, name)
    try:
        array = np.asarray(image)
    except (ValueError, TypeError) as error:
        raise InputError(f"{name}: expected an array or a PIL image ({error})") from error
    if array.dtype == np.bool_:
        return _check_shape(array, name).astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return _sixteen_to_eight(_check_shape(array, name))
    if array.dtype != np.uint8:
        hint = "; scale floats to 0..255 first" if array.dtype.kind == "f" else ""
        raise InputError(f"{name}: expected dtype uint8, uint16 or bool, got {array.dtype}{hint}")
    return _check_shape(array, name)


def check_same_size(images: Sequence[ImageInput], name: str) -> None:
    """Raise InputError when arrays or PIL images differ in size: files are measured by the server."""
    sizes = [size_of(image) for image in images if isinstance(image, np.ndarray | Image.Image)]
    for size in sizes[1:]:
        if size != sizes[0]:
            raise InputError(f"{name}: frames differ in size, {sizes[0]} and {size} (height, width)")


def is_one_image(value: object) -> bool:
    """Return whether `value` is one image. Arrays (N, H, W, 3), (N, H, W) and of paths are several."""
    if isinstance(value, np.ndarray) and value.dtype.kind not in "OU":
        return value.ndim < 3 or (value.ndim == 3 and value.shape[2] in (3, 4))
    return isinstance(value, str | os.PathLike | bytes | bytearray | memoryview | Image.Image | ReadableFile)


def path_of(image: object) -> str | None:
    """Return the path of an image that is a file, or None."""
    if isinstance(image, str | os.PathLike):
        return os.fsdecode(image)
    name = getattr(image, "name", None) if isinstance(image, ReadableFile) else None
    return name if isinstance(name, str) else None


def size_of(image: NDArray[Any] | Image.Image) -> tuple[int, ...]:
    """Return height and width, or what an array of another number of dimensions has of them."""
    return (image.height, image.width) if isinstance(image, Image.Image) else image.shape[:2]


def _from_pillow(image: Image.Image, name: str) -> NDArray[np.uint8]:
    has_sixteen_bits = image.mode in _SIXTEEN_BITS or _is_file_of_sixteen_bits(image)
    if image.mode in _WITHOUT_RANGE and not has_sixteen_bits:
        raise InputError(
            f"{name}: a PIL image of mode {image.mode} has no range; "
            "scale it to 0..255 and convert it to mode L, or pass a uint16 array of 0..65535"
        )
    try:
        if has_sixteen_bits:
            wide = np.asarray(image)
        else:
            between = _CONVERTED_FIRST.get(image.mode)
            pixels = image if between is None else image.convert(between)
            return _check_shape(np.asarray(pixels.convert("L" if pixels.mode in _GREY else "RGB")), name)
    except McjepaError:
        raise
    except Exception as error:  # images are decoded here, and decoders raise anything at all
        raise InputError(f"{name}: a PIL image of mode {image.mode} cannot be made RGB: {error}") from error
    if wide.size and (wide.min() < 0 or wide.max() > 65535):
        raise InputError(
            f"{name}: a PIL image of mode {image.mode} has samples from {wide.min()} to {wide.max()}; "
            "expected 0 to 65535; scale it to 0..255 and convert it to mode L"
        )
    return _sixteen_to_eight(_check_shape(wide, name))


def _is_file_of_sixteen_bits(image: Image.Image) -> bool:
    """Return whether this is a file of 16 bits a sample as Pillow opens it: some of them with the mode I."""
    if image.mode != "I":
        return False
    tags: Mapping[int, object] = getattr(image, "tag_v2", {})
    return image.format in ("PNG", "PPM") or (image.format == "TIFF" and tags.get(_BITS_PER_SAMPLE) == (16,))


def _sixteen_to_eight(wide: NDArray[Any]) -> NDArray[np.uint8]:
    """0..65535 to 0..255, rounded, as the server does it."""
    return ((wide.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _check_shape(array: NDArray[Any], name: str) -> NDArray[Any]:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or 0 in array.shape:
        raise InputError(f"{name}: expected shape (H, W, 3) RGB or (H, W) grey, got {array.shape}")
    return array


def _read_open_file(file: ReadableFile, name: str) -> bytes:
    """Return a whole file, from its beginning where it can be rewound."""
    if inspect.iscoroutinefunction(file.read):
        raise InputError(
            f"{name}: read() of {type(file).__name__} must be awaited; pass the bytes that it gives"
        )
    seekable = getattr(file, "seekable", None)
    try:
        if seekable is not None and seekable():
            file.seek(0)  # type: ignore[attr-defined]
        data: object = file.read()
    except OSError as error:
        message = f"{name}: cannot read the open file: {error.strerror or error}"
        raise named(file_error(message, error, is_input=True), path_of(file) or "") from error
    except Exception as error:  # it is closed, or is text in another encoding
        raise InputError(f"{name}: cannot read the open file: {error}") from error
    if not isinstance(data, bytes | bytearray | memoryview):
        hint = "; open it with mode 'rb'" if isinstance(data, str) else ""
        raise InputError(f"{name}: expected a file of bytes, it gives {type(data).__name__}{hint}")
    return bytes(data)


def _not_empty(data: bytes, name: str) -> bytes:
    if not data:
        raise InputError(f"{name}: the image is empty (0 bytes)")
    return data
