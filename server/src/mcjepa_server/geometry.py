"""The sizes of a frame: the caller's, the one it is scaled to, and the one flow is computed at.

A frame of (H, W) over the budget is scaled down to (h, w), then padded at the bottom and the right to
multiples of the stride or to a bucket.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mcjepa_server.accepted import MIN_SIDE


class Geometry(NamedTuple):
    """Sizes in px: of the caller's frame, of the scaled frame, and of the padded one."""

    width: int
    height: int
    scaled_width: int
    scaled_height: int
    padded_width: int
    padded_height: int

    @property
    def is_scaled(self) -> bool:
        return (self.width, self.height) != (self.scaled_width, self.scaled_height)

    @property
    def ratio(self) -> tuple[float, float]:
        """What dx and dy are multiplied by on the way back."""
        return self.width / self.scaled_width, self.height / self.scaled_height


#: From the width and height of the frames to the sizes they are computed at.
Plan = Callable[[int, int], Geometry]


class Padding(NamedTuple):
    """Padded sizes: multiples of the stride, or one of a few buckets (width, height), so that frames of many
    sizes can share a batch. A bucket is taken if it has at most ``max_overhead`` more pixels, as a share."""

    stride: int
    buckets: tuple[tuple[int, int], ...] = ()
    max_overhead: float = 0.0

    def pad(self, width: int, height: int) -> tuple[int, int]:
        """The smallest bucket that holds the frame, or else the next multiples of the stride."""
        exact = (-(-width // self.stride) * self.stride, -(-height // self.stride) * self.stride)
        limit = exact[0] * exact[1] * (1 + self.max_overhead)
        fitting = [(w, h) for w, h in self.buckets if w >= width and h >= height and w * h <= limit]
        return min(fitting, key=lambda size: size[0] * size[1], default=exact)


def plan_geometry(width: int, height: int, padding: Padding, max_side: int, max_pixels: int) -> Geometry:
    """Largest size with the same aspect that respects both limits; never larger than the frame itself."""
    scale = min(1.0, max_side / max(width, height), math.sqrt(max_pixels / (width * height)))
    scaled_width = min(width, max(MIN_SIDE, round(width * scale)))
    scaled_height = min(height, max(MIN_SIDE, round(height * scale)))
    padded_width, padded_height = padding.pad(scaled_width, scaled_height)
    return Geometry(
        width=width,
        height=height,
        scaled_width=scaled_width,
        scaled_height=scaled_height,
        padded_width=padded_width,
        padded_height=padded_height,
    )


def split_clip(frames: int, length: int) -> Iterator[slice]:
    """Slices of at most ``length`` >= 2 frames that overlap by one, so that no pair is lost."""
    for start in range(0, frames - 1, length - 1):
        yield slice(start, min(start + length, frames))
