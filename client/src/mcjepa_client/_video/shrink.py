"""Frames at the size at which a server computes, and what it answers at their own size again.

A frame of 8K is 100 MB, of which the server would use 2: so what is sent is what is computed. The sizes are
those of the server's `plan_geometry`, and areas are averaged as there, to the bit: a video is its pairs.
Small frames and strips, which the server computes at larger sizes of its own, are not shrunk as far.
"""

import math
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as pillow

from mcjepa_client._video.frames import Image
from mcjepa_client.flow_io import Flow

_NOTHING = 1e-3  # px; less is left out
_MIN_SIDE = 16  # px, of a frame that a server takes
_ENLARGED = 13 / 8  # a frame with a side below the model's smallest is computed with this many times that
T = TypeVar("T", bound=np.generic)


def computed_size(
    shape: tuple[int, ...], max_side: int, max_pixels: int, smallest_side: int = 1
) -> tuple[int, int]:
    """Return height and width at which frames (H, W, ...) are sent: those at which flow is computed.

    Where the server computes with a longer side than `max_side`, because the shorter one would be too small
    for its model, at least that size is returned.
    """
    height, width = shape[:2]
    shorter, longer = sorted((height, width))
    enlarged, by_pixels = _ENLARGED * smallest_side, math.sqrt(max_pixels / (width * height))
    scale = min(1.0, max(max_side, enlarged) / longer, by_pixels)
    if shorter * scale < smallest_side:  # computed larger, or stretched: it is sent at no less than that
        scale = min(1.0, max(min(enlarged / shorter, by_pixels), smallest_side / shorter))
    size = (
        min(height, max(_MIN_SIDE, round(height * scale))),
        min(width, max(_MIN_SIDE, round(width * scale))),
    )
    return size if size == (height, width) else computed_size(size, max_side, max_pixels, smallest_side)


def shrink(images: list[Image], size: tuple[int, int]) -> list[Image]:
    """Frames (H, W, 3) at `size` (h, w), by averaging areas."""
    return [_average(image, *size) if image.shape[:2] != size else image for image in images]


def _average(image: Image, height: int, width: int) -> Image:
    """To the bit what OpenCV's INTER_AREA gives, in the order in which it adds: so does the server."""
    rows, columns = image.shape[0] / height, image.shape[1] / width
    if rows.is_integer() and columns.is_integer():
        blocks = image.reshape(height, int(rows), width, int(columns), 3)
        sums = blocks.sum(axis=(1, 3), dtype=np.int32)
        if rows == columns == 2:
            sums = sums + 2 >> 2
        else:
            sums = np.rint(sums.astype(np.float32) * np.float32(1 / (rows * columns)))
        return np.asarray(sums, np.uint8)
    narrow = np.zeros((image.shape[0], width, 3), np.float32)
    for places, shares in _shares(image.shape[1], width):
        narrow += image[:, places] * shares[:, None]
    small = np.zeros((height, width, 3), np.float32)
    for places, shares in _shares(image.shape[0], height):
        small += narrow[places] * shares[:, None, None]
    return np.asarray(np.rint(small).clip(0, 255), np.uint8)


def _shares(size: int, wanted: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """Of `size` pixels in a row, which to add with which share to each of `wanted`, one after the other."""
    scale = size / wanted
    lists = [_shares_of(place * scale, scale, size) for place in range(wanted)]
    for step in range(max(map(len, lists))):
        taken = [shares[step] if step < len(shares) else (0, 0.0) for shares in lists]
        yield (
            np.array([place for place, _ in taken], np.intp),
            np.array([share for _, share in taken], np.float32),
        )


def _shares_of(begin: float, scale: float, size: int) -> list[tuple[int, float]]:
    """Pixels between `begin` and `begin + scale`, and how much of each is there."""
    end, length = begin + scale, min(scale, size - begin)
    last = min(math.floor(end), size - 1)
    first = min(math.ceil(begin), last)
    shares = [(first - 1, (first - begin) / length)] if first - begin > _NOTHING else []
    shares += [(place, 1.0 / length) for place in range(first, last)]
    if end - last > _NOTHING:
        shares.append((last, min(end - last, 1.0, length) / length))
    return shares


def enlarge_flow(flow: Flow, shape: tuple[int, ...]) -> Flow:
    """A flow (h, w, 2) in px of shrunk frames for the frames themselves, (H, W, 2) in their px."""
    height, width = shape[:2]
    if flow.shape[:2] == (height, width):
        return flow
    ratio = width / flow.shape[1], height / flow.shape[0]
    enlarged = np.empty((height, width, 2), np.float32)
    for place in (0, 1):
        plane = pillow.fromarray(np.ascontiguousarray(flow[..., place]))
        resized = np.asarray(plane.resize((width, height), pillow.Resampling.BILINEAR))
        np.multiply(resized, np.float32(ratio[place]), out=enlarged[..., place])
    return enlarged


def enlarge_mask(mask: NDArray[T], shape: tuple[int, ...]) -> NDArray[T]:
    """A mask (h, w) for frames (H, W, ...), by the nearest pixel."""
    rows, columns = (
        ((np.arange(n) + 0.5) * m / n).astype(np.intp) for n, m in zip(shape[:2], mask.shape, strict=True)
    )
    return mask if mask.shape == shape[:2] else mask[rows[:, None], columns]
