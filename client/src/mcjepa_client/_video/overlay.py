"""The flow of a video as a video: coloured over the frames, or beside them, in one scale from end to end."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mcjepa_client._extras import require
from mcjepa_client._video.frames import Image
from mcjepa_client._video.rgb import to_frame
from mcjepa_client.flow_io import Flow
from mcjepa_client.flow_viz import disc, flow_to_color, legend

View = Literal["overlay", "side-by-side"]

MIN_SCALE = 1.0  # px: the tremor of a still scene is not blown up to full colours
_STEPS = 256  # of the table of colours, from no motion to the scale
_BAND = 2**20  # px that are drawn at once: a pixel takes some 60 bytes on the way
_OPACITY = 0.8  # of the colour of a motion as long as the scale
_TIME_BASE = Fraction(1, 90_000)  # seconds, of the video that is written
_LONGEST = 3600 * 90_000  # between two pictures: MP4 has 32 bits for it
# One thread and no lookahead: with either, the bytes of the same pictures may differ (docs/decisions/0023).
_CODEC_OPTIONS = {"preset": "veryfast", "tune": "zerolatency", "crf": "20", "threads": "1"}


def clip_scale(percentiles: Iterable[float]) -> float:
    """Length in px of full colour for a whole clip, from the 99th percentile of the lengths in each field.

    A quarter of the fields may be faster and show the colours of the rim: cuts do not pale all others.
    """
    values = np.array(list(percentiles), np.float64)
    return max(MIN_SCALE, float(np.percentile(values, 75))) if values.size else MIN_SCALE


class Painter:
    """Draws one frame after the other in the same scale."""

    def __init__(self, view: View, scale: float) -> None:
        self._view = view
        self._scale = scale
        # Over a frame, how far a point moves is told by how much the colour covers.
        self._table = _color_table(hue_only=view == "overlay")

    def draw(self, image: Image, flow: Flow) -> Image:
        """For a frame (H, W, 3) and its flow (H, W, 2) a picture (H, W, 3), or (H, 2 W, 3) side by side."""
        height, width = image.shape[:2]
        rows = max(1, _BAND // width)
        bands = (slice(top, top + rows) for top in range(0, height, rows))
        picture = np.concatenate([self._draw(image[band], flow[band]) for band in bands])
        return _with_legend(picture, self._scale)

    def _draw(self, image: Image, flow: Flow) -> Image:
        vectors = flow / np.float32(self._scale)
        radius = np.sqrt(np.square(vectors).sum(axis=2))
        vectors /= np.maximum(radius, 1)[..., None]  # longer motions have the colour of the rim
        place = np.rint(vectors * _STEPS).astype(np.intp) + _STEPS
        color = self._table[place[..., 1], place[..., 0]]
        if self._view == "side-by-side":
            return np.concatenate([image, color], axis=1)
        opacity = (_OPACITY * np.minimum(radius, 1))[..., None]
        mixed: Image = np.rint(image + opacity * (color.astype(np.float32) - image)).astype(np.uint8)
        return mixed


def _color_table(hue_only: bool) -> NDArray[np.uint8]:
    """(2 S + 1, 2 S + 1, 3) colours of the motions (dx, dy) / scale from -1 to 1, in steps of 1 / S.

    With `hue_only` all have the full colour of the rim.
    """
    axis = np.linspace(-1, 1, 2 * _STEPS + 1, dtype=np.float32)
    vectors = np.dstack(np.meshgrid(axis, axis))
    shortest = np.float32(1e-6 if hue_only else 1)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=2, keepdims=True), shortest)
    return flow_to_color(vectors, max_flow=1.001)  # a hair beyond the rim: rounding must not darken it


def _with_legend(picture: Image, scale: float) -> Image:
    """With the key of the colours in the lower right corner, where there is room."""
    height, width = picture.shape[:2]
    size = min(96, height // 3, width // 3)
    if size >= 40:  # smaller text cannot be read
        inside = disc(size)
        corner = picture[height - size :, width - size :]
        corner[inside] = legend(size, scale)[inside]
    return picture


@dataclass(frozen=True)
class Picture:
    """One frame of the video to write."""

    timestamp: float  # seconds
    image: Image


def write_video(target: Path, pictures: Iterator[Picture]) -> None:
    """H.264 in MP4, with the times of the pictures. Atomic; the same pictures give the same bytes."""
    av = require("av", "video")
    temporary = target.with_name(f".{target.name}.tmp")
    first = next(pictures)
    pts = left_out = 0  # ticks
    # A file, since FFmpeg would take a name with a colon for an address.
    with open(temporary, "w+b") as file, av.open(file, "w", format="mp4") as container:
        stream = _add_stream(container, first.image)
        for picture in _prepend(first, pictures):
            frame = to_frame(_to_even(picture.image))
            frame.time_base = _TIME_BASE
            if picture is not first:
                wanted = round((picture.timestamp - first.timestamp) / _TIME_BASE) - left_out
                left_out += max(0, wanted - pts - _LONGEST)
                pts = max(pts + 1, min(wanted, pts + _LONGEST))
            frame.pts = pts
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    os.replace(temporary, target)


def _prepend(first: Picture, others: Iterator[Picture]) -> Iterator[Picture]:
    yield first
    yield from others


def _add_stream(container: Any, image: Image) -> Any:
    height, width = _to_even(image).shape[:2]
    stream = container.add_stream("libx264", options=_CODEC_OPTIONS)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.time_base = _TIME_BASE
    return stream


def _to_even(image: Image) -> Image:
    """Repeats the last row or column where needed: 4:2:0 has colour for blocks of two by two."""
    height, width = image.shape[:2]
    pad = ((0, height % 2), (0, width % 2), (0, 0))
    return np.ascontiguousarray(np.pad(image, pad, mode="edge")) if height % 2 or width % 2 else image
