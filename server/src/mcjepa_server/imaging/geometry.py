"""The sizes of a frame: the caller's, the one it is scaled to, and the one flow is computed at.

A frame of (H, W) over the budget is scaled down to (h, w), one that is small is scaled up, and the result is
padded at the bottom and the right to multiples of the stride or to a bucket.

Small frames are not computed as they are: at 64x64 the flow of a frame that moved by 3 px was off by up to
30 px (decision 0045).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from mcjepa_server.errors import InvalidInput

#: Shorter side that a frame is scaled up to, and side that it is padded to, over the model's smallest.
ENLARGED, PADDED = 13 / 8, 3 / 2
#: How far one side of a strip may be stretched beyond the other.
MAX_STRETCH = 4


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


class Plan(Protocol):
    """Chooses the sizes for frames of ``width`` x ``height`` px; ``param`` names the frame in errors."""

    def __call__(self, width: int, height: int, *, param: str | None = None) -> Geometry: ...


class Padding(NamedTuple):
    """Padded sizes: multiples of the stride, or one of a few buckets (width, height), so that frames of many
    sizes can share a batch. A bucket is taken if it has at most ``max_overhead`` more pixels, as a share.
    ``smallest_side`` is that of the contract."""

    stride: int
    buckets: tuple[tuple[int, int], ...] = ()
    max_overhead: float = 0.0
    smallest_side: int = 1

    @property
    def least(self) -> int:
        """Return the shortest padded side, px."""
        return math.ceil(PADDED * self.smallest_side / self.stride) * self.stride

    def pad(self, width: int, height: int) -> tuple[int, int]:
        """Return the smallest bucket that holds the frame, or else the next multiples of the stride."""
        width, height = max(width, self.least), max(height, self.least)
        exact = (-(-width // self.stride) * self.stride, -(-height // self.stride) * self.stride)
        limit = exact[0] * exact[1] * (1 + self.max_overhead)
        fitting = [(w, h) for w, h in self.buckets if w >= width and h >= height and w * h <= limit]
        return min(fitting, key=lambda size: size[0] * size[1], default=exact)


def max_aspect(smallest_side: int, max_pixels: int) -> int:
    """Return the longest strip that can be computed in ``max_pixels``, as long side over short side."""
    return max_pixels * MAX_STRETCH // smallest_side**2


def plan_geometry(
    width: int, height: int, padding: Padding, max_side: int, max_pixels: int, *, param: str | None = None
) -> Geometry:
    """Return the sizes for frames of ``width`` x ``height`` px.

    No side is computed below the model's smallest: a frame with a shorter one is scaled up, as far as both
    limits allow, and a strip is stretched besides. Where that is not enough the longer side may exceed
    ``max_side``. Otherwise the aspect is kept. Raises InvalidInput for a strip beyond :func:`max_aspect`.
    """
    smallest = padding.smallest_side
    shorter, longer = sorted((width, height))
    if longer > shorter * max_aspect(smallest, max_pixels):
        raise InvalidInput(
            f"{param or 'the frame'} is {width}x{height}; one side may be at most "
            f"{max_aspect(smallest, max_pixels)} times the other, so that it can be computed in {max_pixels} "
            "pixels (max_compute_pixels); cut the frames into parts",
            param=param,
        )
    enlarged = ENLARGED * smallest
    largest = min(
        max(max_side, enlarged, smallest / MAX_STRETCH * longer / shorter) / longer,
        math.sqrt(max_pixels / (width * height)),
        max_pixels / (smallest * longer),  # of a strip that is stretched
    )
    scale = min(1.0, largest)
    if shorter * scale < smallest:
        scale = min(enlarged / shorter, largest)
    scaled_width = max(smallest, round(width * scale))
    scaled_height = max(smallest, round(height * scale))
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
