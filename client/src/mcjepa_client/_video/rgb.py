"""Between PyAV's frames and RGB arrays. FFmpeg's exact conversion: the same pixels on every processor."""

import math
from typing import Any

import numpy as np

from mcjepa_client._extras import require
from mcjepa_client._video.frames import Image

_ONE_DEGREE = 1.0


def from_frame(frame: Any) -> Image:
    """(H, W, 3) RGB, as the file's display matrix says: rotated by quarter turns and mirrored.

    Raises ValueError for other angles.
    """
    image: Image = frame.reformat(format="rgb24", interpolation=_exact()).to_ndarray()
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return image if matrix is None else np.ascontiguousarray(_display(image, np.frombuffer(matrix, "=i4")))


def _display(image: Image, matrix: Any) -> Image:
    """`image` as ffmpeg's -autorotate shows it: `configure_input_video_filter` of fftools/ffmpeg_filter.c.

    The matrix (9,) maps (x, y) to (a x + c y, b x + d y), a, b, c, d = m[0], m[1], m[3], m[4].
    """
    a, b, c, d = (float(matrix[place]) for place in (0, 1, 3, 4))
    if not (math.hypot(a, c) and math.hypot(b, d)):
        return image
    # Degrees clockwise, as av_display_rotation_get computes them.
    angle = math.degrees(math.atan2(b / math.hypot(b, d), a / math.hypot(a, c))) % 360
    if abs(angle - 90) < _ONE_DEGREE:
        return image.transpose(1, 0, 2) if c > 0 else np.rot90(image, -1)
    if abs(angle - 270) < _ONE_DEGREE:
        return np.rot90(image, 2).transpose(1, 0, 2) if c < 0 else np.rot90(image)
    if abs(angle - 180) < _ONE_DEGREE:
        return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    if min(angle, 360 - angle) >= _ONE_DEGREE:
        raise ValueError(
            f"it is to be shown rotated by {angle:.1f} degrees clockwise: only quarter turns are supported; "
            "encode it upright, e.g. ffmpeg -i IN OUT"
        )
    return image[::-1] if d < 0 else image


def to_frame(image: Image) -> Any:
    """A frame for H.264: planes of brightness and, for blocks of two by two, of colour. Even sides only."""
    frame = require("av", "video").VideoFrame.from_ndarray(image, format="rgb24")
    return frame.reformat(format="yuv420p", interpolation=_exact())


def _exact() -> Any:
    flags = require("av.video.reformatter", "video").Interpolation
    return flags.BILINEAR | flags.ACCURATE_RND | flags.BITEXACT
