"""Bytes of an image file to RGB pixels. Nothing here trusts the bytes.

Convention
    Pixels are (H, W, 3) uint8, RGB, after the EXIF orientation has been applied.
    Grey is repeated over the three channels. Alpha is dropped, not blended: the colour stored under it is
    used. 16-bit samples are scaled to 8 bits. CMYK becomes RGB. Colour profiles are ignored. Of an animation
    the first frame counts.

Pillow decodes, since OpenCV turns a truncated JPEG into a picture with a grey end and says nothing. NumPy is
imported where it is needed: it would be half of the memory of a process that decodes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError

from mcjepa_server.decoding.decode_cost import check_file, check_metadata, scale_samples
from mcjepa_server.errors import ApiError, ImageTooLarge, InvalidInput, UndecodableImage
from mcjepa_server.imaging.limits import FORMATS, MIN_SIDE, PixelBudget

if TYPE_CHECKING:
    from mcjepa_server.types import Uint8Array

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_EIGHT_BIT = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
_ORIENTATION_TAG = 0x0112
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


Check = Callable[[int, int], object]


def decode_image(
    data: bytes, param: str, budget: PixelBudget, enough: int | None = None, check: Check | None = None
) -> Uint8Array:
    """Decodes one image file to (H, W, 3) uint8 RGB. Arguments and errors are those of :func:`open_image`."""
    import numpy as np

    return np.asarray(open_image(data, param, budget, enough, check))


def open_image(
    data: bytes, param: str, budget: PixelBudget, enough: int | None = None, check: Check | None = None
) -> Image.Image:
    """Decodes one image file to an upright RGB image.

    ``param`` names the part in errors. A JPEG may come out at a half, a quarter or an eighth of its size, in
    a fraction of the time, where ``enough`` px are left on both sides. Size limits are checked on the header,
    before any pixel is decoded, and so is what ``check`` raises for the width and height to be decoded. Files
    that would take much longer than others of their size are refused (:mod:`.decode_cost`).
    Raises UndecodableImage, ImageTooLarge, or InvalidInput when a side is under
    16 px.
    """
    if not data:
        raise UndecodableImage(f"{param} is empty", param=param)
    try:
        check_file(data)
        data = scale_samples(data)
        image = _open(data, param, budget)
        budget.check(image.width, image.height, param)
        _check_min_side(image, param)
        if image.format == "PNG":
            image.verify()  # the checksums, which decoding skips; leaves the image unusable
            image = _open(data, param, budget)
        with image:
            if enough is not None:
                image.draft(None, (enough, enough))  # nothing, but for a JPEG
            if check is not None:
                check(*image.size)
            image.load()
            return _to_rgb(image, param)
    except ApiError:
        raise
    except Exception as error:  # decoders raise anything at all on hostile bytes
        raise UndecodableImage(f"{param} cannot be decoded: {_reason(error)}", param=param) from error


def _open(data: bytes, param: str, budget: PixelBudget) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise UndecodableImage(
            f"{param} is not a readable image; supported are {', '.join(FORMATS)}", param=param
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        # Pillow's own guard, far above our limit; it does not hand out the size.
        raise ImageTooLarge(
            f"the header of {param} claims more pixels than the limit, {budget.max_image} (max_image_pixels)",
            param=param,
        ) from None


def _check_min_side(image: Image.Image, param: str) -> None:
    if min(image.size) < MIN_SIDE:
        raise InvalidInput(
            f"{param} is {image.width}x{image.height}; "
            f"the smallest side must be at least {MIN_SIDE} px (min_side)",
            param=param,
        )


def _to_rgb(image: Image.Image, param: str) -> Image.Image:
    check_metadata(image.info)
    orientation = _orientation(image)
    if image.mode in _SIXTEEN_BIT:
        upright = _sixteen_to_eight(image).convert("RGB")
    elif image.mode in _EIGHT_BIT:
        # A palette with transparency goes through RGBA, or Pillow warns.
        upright = image.convert("RGBA") if image.mode in ("P", "PA") else image
        upright = upright if upright.mode == "RGB" else upright.convert("RGB")  # which would copy it
    else:
        raise UndecodableImage(
            f"{param} has pixels of type {image.mode}; 8 and 16 bits a channel are supported", param=param
        )
    if orientation in _ORIENTATIONS:
        upright = upright.transpose(_ORIENTATIONS[orientation])
    return upright


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) when there is none or it cannot be read: it is only metadata."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return 1


def _sixteen_to_eight(image: Image.Image) -> Image.Image:
    """0..65535 to 0..255, rounded."""
    import numpy as np

    wide = np.clip(np.asarray(image), 0, 65535).astype(np.uint32)
    return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))


def _reason(error: Exception) -> str:
    """The decoder's own words, without file names or addresses of objects."""
    text = str(error).split("<", 1)[0].strip().splitlines()
    return text[0][:200] if text and text[0] else "the data are corrupt"
