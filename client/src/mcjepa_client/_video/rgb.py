"""Between PyAV's frames and RGB arrays. FFmpeg's exact conversion: the same pixels on every processor."""

from typing import Any

import numpy as np

from mcjepa_client._extras import require
from mcjepa_client._video.frames import Image


def from_frame(frame: Any) -> Image:
    """(H, W, 3) RGB, turned upright as the file's rotation says (counter-clockwise degrees)."""
    image: Image = frame.reformat(format="rgb24", interpolation=_exact()).to_ndarray()
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def to_frame(image: Image) -> Any:
    """A frame for H.264: planes of brightness and, for blocks of two by two, of colour. Even sides only."""
    frame = require("av", "video").VideoFrame.from_ndarray(image, format="rgb24")
    return frame.reformat(format="yuv420p", interpolation=_exact())


def _exact() -> Any:
    flags = require("av.video.reformatter", "video").Interpolation
    return flags.BILINEAR | flags.ACCURATE_RND | flags.BITEXACT
