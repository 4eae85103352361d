"""The bytes of an image file to RGB pixels, by the rules of the server: one verdict for both ways in.

Convention
    Pixels are (H, W, 3) uint8, RGB, after the EXIF or XMP orientation has been applied.
    Grey is repeated over the three channels. Alpha is dropped, not blended: the colour stored under it is
    used. 16-bit samples are scaled to 8 bits. CMYK becomes RGB. Colour profiles are ignored.
    A file is whole when it decodes to its end; what lies behind the end of the image does not matter.

The distributions do not import each other, so this repeats `mcjepa_server.decoding.images`;
tests/corpus holds both to the same pixels.
"""

import io

import numpy as np
from PIL import Image as pillow, UnidentifiedImageError

from mcjepa_client._errors import VideoError
from mcjepa_client._video.costly import check_file, check_metadata, scale_samples
from mcjepa_client._video.frames import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_EIGHT_BIT = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
_ORIENTATION_TAG = 0x0112
_ORIENTATIONS = {
    2: pillow.Transpose.FLIP_LEFT_RIGHT,
    3: pillow.Transpose.ROTATE_180,
    4: pillow.Transpose.FLIP_TOP_BOTTOM,
    5: pillow.Transpose.TRANSPOSE,
    6: pillow.Transpose.ROTATE_270,
    7: pillow.Transpose.TRANSVERSE,
    8: pillow.Transpose.ROTATE_90,
}


def decode_image(data: bytes, name: str) -> Image:
    """Decode one image file to (H, W, 3) uint8 RGB, upright; of an animation the first frame.

    Raises VideoError, which begins with `name`, for anything that does not decode to its end.
    """
    try:
        check_file(data)
        data = scale_samples(data)
        image = pillow.open(io.BytesIO(data), formats=FORMATS)
        if image.format == "PNG":
            image.verify()  # the checksums, which decoding skips; leaves the image unusable
            image = pillow.open(io.BytesIO(data), formats=FORMATS)
        with image:
            image.load()
            check_metadata(image.info)
            return to_rgb(image)
    except Exception as error:  # decoders raise anything at all on damaged bytes
        raise undecodable(name, error, len(data)) from error


def to_rgb(image: pillow.Image) -> Image:
    """Pixels of a loaded Pillow image, (H, W, 3) uint8 RGB, upright. Raises ValueError for unusual modes."""
    orientation = _orientation(image)
    if image.mode in _SIXTEEN_BIT:
        upright = _sixteen_to_eight(image).convert("RGB")
    elif image.mode in _EIGHT_BIT:
        # A palette with transparency goes through RGBA, or Pillow warns.
        upright = (image.convert("RGBA") if image.mode in ("P", "PA") else image).convert("RGB")
    else:
        raise ValueError(f"pixels of type {image.mode}; 8 and 16 bits a channel are supported")
    if orientation in _ORIENTATIONS:
        upright = upright.transpose(_ORIENTATIONS[orientation])
    return np.array(upright, np.uint8)


def undecodable(name: str, error: Exception, size: int) -> VideoError:
    """Describe an image of `size` bytes that cannot be decoded."""
    if isinstance(error, UnidentifiedImageError):
        reason = f"supported are {', '.join(FORMATS)}"
    else:
        reason = reason_of(error)
    return VideoError(f"{name}: damaged, truncated, or not an image ({size} bytes): {reason}")


def reason_of(error: Exception) -> str:
    """The decoder's own words, without addresses of objects."""
    return str(error).split("<", 1)[0].strip() or "the data are corrupt"


def _orientation(image: pillow.Image) -> int:
    """EXIF orientation, 1 (upright) when there is none or it cannot be read: it is only metadata."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return 1


def _sixteen_to_eight(image: pillow.Image) -> pillow.Image:
    """0..65535 to 0..255, rounded."""
    wide = np.clip(np.asarray(image), 0, 65535).astype(np.uint32)
    return pillow.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
