"""Frames to the size at which flow is computed, and flow back to the caller's.

Convention
    Pixel centres sit at integers; flow is (dx, dy) in px of the frame it is given for. Frames are padded by
    repeating the edge. The way back crops, resizes bilinearly, and multiplies dx by W/w and dy by H/h.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mcjepa_server.engine import FloatArray, Uint8Array
from mcjepa_server.geometry import Geometry


def scale_frame(frame: Uint8Array, geometry: Geometry) -> Uint8Array:
    """Frame (H, W, 3) that is to be smaller to (h, w, 3), by averaging areas."""
    size = (geometry.scaled_width, geometry.scaled_height)
    scaled: Uint8Array = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return scaled


def empty_clip(frames: int, geometry: Geometry) -> Uint8Array:
    """Room for so many padded frames: (1, N, padded H, padded W, 3)."""
    return np.empty((1, frames, geometry.padded_height, geometry.padded_width, 3), np.uint8)


def pad_frame(frame: Uint8Array, padded: Uint8Array) -> None:
    """Copies a scaled frame (h, w, 3) into the place of a padded one, (padded H, padded W, 3)."""
    h, w = frame.shape[:2]
    padded[:h, :w] = frame
    padded[:h, w:] = padded[:h, w - 1 : w]
    padded[h:] = padded[h - 1 : h]


def pack_clip(frames: Sequence[Uint8Array], geometry: Geometry) -> Uint8Array:
    """Scaled frames (h, w, 3) to one clip (1, N, padded H, padded W, 3)."""
    clip = empty_clip(len(frames), geometry)
    for frame, padded in zip(frames, clip[0], strict=True):
        pad_frame(frame, padded)
    return clip


def unpack_flow(raw: FloatArray, geometry: Geometry) -> FloatArray:
    """Flow (M, 2, padded H, padded W) of the engine to (M, H, W, 2) at the caller's size."""
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
    h, w = image.shape[:2]
    shrunk = (min(w, side), min(h, side))
    if shrunk != (w, h):
        image = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    if shrunk != (side, side):
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return image
