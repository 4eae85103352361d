"""Between the caller's frame size and the size at which flow is computed, and back.

Convention
    Pixel centres sit at integers; flow is (dx, dy) in px of the frame it is given for. A frame of (H, W) over
    the budget is scaled down to (h, w), then padded at the bottom and the right, by repeating the edge, to
    multiples of the stride or to a bucket. The way back crops, resizes bilinearly, and multiplies dx by W/w
    and dy by H/h.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mcjepa_server.engine import FloatArray, Uint8Array
from mcjepa_server.images import MIN_SIDE


@dataclass(frozen=True)
class Geometry:
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


@dataclass(frozen=True)
class Padding:
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


def scale_frame(frame: Uint8Array, geometry: Geometry) -> Uint8Array:
    """Frame (H, W, 3) to (h, w, 3), by averaging areas."""
    if not geometry.is_scaled:
        return frame
    import cv2  # here: a process that decodes frames which fit does without its 6 MB

    size = (geometry.scaled_width, geometry.scaled_height)
    scaled: Uint8Array = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return scaled


def pack_clip(frames: Sequence[Uint8Array], geometry: Geometry) -> Uint8Array:
    """Pads scaled frames (h, w, 3) into one clip (1, N, padded H, padded W, 3)."""
    h, w = geometry.scaled_height, geometry.scaled_width
    clip = np.empty((1, len(frames), geometry.padded_height, geometry.padded_width, 3), np.uint8)
    for slot, frame in zip(clip[0], frames, strict=True):
        slot[:h, :w] = frame
        slot[:h, w:] = slot[:h, w - 1 : w]
        slot[h:] = slot[h - 1 : h]
    return clip


def unpack_flow(raw: FloatArray, geometry: Geometry) -> FloatArray:
    """Flow (M, 2, padded H, padded W) of the engine to (M, H, W, 2) at the caller's size."""
    import cv2

    cropped = raw[:, :, : geometry.scaled_height, : geometry.scaled_width]
    flows = np.empty((len(raw), geometry.height, geometry.width, 2), np.float32)
    if not geometry.is_scaled:
        for target, planes in zip(flows, cropped, strict=True):
            cv2.merge(tuple(planes), target)  # ten times as fast as NumPy's copy of a transposed array
        return flows
    ratio = np.array(geometry.ratio, np.float32)
    for target, planes in zip(flows, cropped, strict=True):
        size = (geometry.width, geometry.height)
        np.multiply(
            cv2.resize(cv2.merge(tuple(planes)), size, interpolation=cv2.INTER_LINEAR), ratio, out=target
        )
    return flows


def resize_square(image: Uint8Array, side: int) -> Uint8Array:
    """Whole image (H, W, 3) to (side, side, 3): aspect is not kept, nothing is cropped.

    Axes that shrink are averaged first, then axes that grow are interpolated, so that no axis aliases.
    """
    import cv2

    h, w = image.shape[:2]
    shrunk = (min(w, side), min(h, side))
    if shrunk != (w, h):
        image = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    if shrunk != (side, side):
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return image


def split_clip(frames: int, length: int) -> Iterator[slice]:
    """Slices of at most ``length`` >= 2 frames that overlap by one, so that no pair is lost."""
    for start in range(0, frames - 1, length - 1):
        yield slice(start, min(start + length, frames))
