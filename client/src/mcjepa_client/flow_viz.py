"""Colour pictures of optical flow, in the Middlebury colours.

Source: Baker et al., "A Database and Evaluation Methodology for Optical Flow" (2007). Hue is the direction
of motion, saturation its length relative to `max_flow`; no motion is white, unknown pixels are black.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mcjepa_client._errors import InputError
from mcjepa_client.flow_io import Flow, Mask, check_flow, known_pixels

RGB = NDArray[np.uint8]

_RED, _YELLOW, _GREEN = (255, 0, 0), (255, 255, 0), (0, 255, 0)
_CYAN, _BLUE, _MAGENTA = (0, 255, 255), (0, 0, 255), (255, 0, 255)
# Steps per arc, chosen by the authors for perceptual evenness: 55 hues in all.
_ARCS = (
    (15, _RED, _YELLOW),
    (6, _YELLOW, _GREEN),
    (4, _GREEN, _CYAN),
    (11, _CYAN, _BLUE),
    (13, _BLUE, _MAGENTA),
    (6, _MAGENTA, _RED),
)


def color_wheel() -> NDArray[np.float64]:
    """The 55 hues of the wheel, (55, 3) RGB in [0, 255]."""
    arcs = [_arc(steps, np.array(start), np.array(stop)) for steps, start, stop in _ARCS]
    return np.concatenate(arcs)


def _arc(steps: int, start: NDArray[np.int_], stop: NDArray[np.int_]) -> NDArray[np.float64]:
    ramp = np.floor(255 * np.arange(steps) / steps)[:, None]
    colors: NDArray[np.float64] = start + np.sign(stop - start) * ramp
    return colors


def largest_motion(flow: Flow) -> float:
    """Length in px of the longest known vector; 0.0 when no pixel is known."""
    lengths = np.linalg.norm(flow.astype(np.float64), axis=2)[known_pixels(flow)]
    return float(lengths.max()) if lengths.size else 0.0


def flow_to_color(flow: Flow, max_flow: float | None = None) -> RGB:
    """Colour a flow field.

    Args:
        flow: (H, W, 2) px, (dx, dy).
        max_flow: the length in px drawn fully saturated; longer vectors are drawn darker. None takes the
            longest vector of this field. Give one value for all frames of a video, or the colours flicker.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: `flow` has another shape, or `max_flow` is not positive and finite.
    """
    flow = check_flow(flow)
    known = known_pixels(flow)
    vectors = np.where(known[..., None], flow, 0).astype(np.float64)
    scale = check_max_flow(max_flow) or largest_motion(flow) or 1.0
    radius = np.linalg.norm(vectors, axis=2) / scale
    hue = _hues(vectors)
    faded = 1 - np.minimum(radius, 1)[..., None] * (1 - hue)
    colored = np.where((radius <= 1)[..., None], faded, 0.75 * hue)  # beyond the scale: darker
    colored[~known] = 0
    picture: RGB = np.floor(255 * colored).astype(np.uint8)
    return picture


def _hues(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fully saturated colour of each direction, (H, W, 3) in [0, 1], interpolated on the wheel."""
    wheel = color_wheel() / 255
    angle = np.arctan2(-vectors[..., 1], -vectors[..., 0]) / np.pi  # [-1, 1]
    position = (angle + 1) / 2 * (len(wheel) - 1)
    below = np.floor(position).astype(np.intp)
    fraction = (position - below)[..., None]
    mixed: NDArray[np.float64] = (1 - fraction) * wheel[below] + fraction * wheel[(below + 1) % len(wheel)]
    return mixed


def check_max_flow(max_flow: float | None) -> float | None:
    if max_flow is not None and not (math.isfinite(max_flow) and max_flow > 0):
        raise InputError(f"max_flow: expected a positive number of px, got {max_flow}")
    return max_flow


def legend(size: int = 96, max_flow: float | None = None) -> RGB:
    """The wheel as a key: each point of the disc has the colour of a motion from the centre to it.

    Returns (size, size, 3) uint8 RGB on white, with `max_flow` (the motion of the rim, px) written below the
    centre when given.
    """
    vectors = _disc_vectors(size)
    colors = np.where(disc(size)[..., None], flow_to_color(vectors, max_flow=1.0), 255).astype(np.uint8)
    if max_flow is None:
        return colors
    picture = Image.fromarray(colors)
    center, text = (size / 2, size / 2), f"{max_flow:.3g} px"
    ImageDraw.Draw(picture).text(center, text, (0, 0, 0), _font(size / 7), anchor="mm")
    return np.array(picture)


@lru_cache
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that comes with Pillow; the same letters on every machine."""
    return ImageFont.load_default(size)


def disc(size: int) -> Mask:
    """Return which of (size, size) pixels the wheel of `legend` covers."""
    inside: Mask = np.linalg.norm(_disc_vectors(size), axis=2) <= 1
    return inside


def _disc_vectors(size: int) -> Flow:
    """(size, size, 2) motions from the centre to each point; the rim of the disc is at length 1."""
    axis = np.linspace(-1.08, 1.08, size, dtype=np.float32)  # the disc, and a thin margin
    return np.dstack(np.meshgrid(axis, axis))


def flow_picture(flow: Flow, max_flow: float | None = None) -> RGB:
    """`flow_to_color` with the legend in the lower right corner, when the field is large enough for one."""
    picture = flow_to_color(flow, max_flow)
    height, width = picture.shape[:2]
    size = min(96, height // 3, width // 3)
    if size >= 40:  # smaller text cannot be read
        corner = picture[height - size :, width - size :]
        inside = disc(size)
        corner[inside] = legend(size, max_flow or largest_motion(flow))[inside]
    return picture
