"""Frames to the size at which flow is computed, and flow back to the caller's.

Convention
    Pixel centres sit at integers; flow is (dx, dy) in px of the frame it is given for. Frames are padded by
    repeating the edge. The way back crops, resizes bilinearly, and multiplies dx by W/w and dy by H/h.

OpenCV is imported by the functions that call it: it takes 11 MB of a process, and most requests need none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mcjepa_server.imaging.geometry import Geometry
from mcjepa_server.types import FloatArray, Uint8Array


def scale_frame(frame: Uint8Array, geometry: Geometry) -> Uint8Array:
    """Resize a frame (H, W, 3) to the scaled size, (h, w, 3)."""
    return _resize(frame, geometry.scaled_width, geometry.scaled_height)


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


def unpack_flow(raw: FloatArray, geometry: Geometry, out: FloatArray | None = None) -> FloatArray:
    """Flow (M, 2, padded H, padded W) of the engine to (M, H, W, 2) at the caller's size, into ``out``."""
    cropped = raw[:, :, : geometry.scaled_height, : geometry.scaled_width]
    flows = np.empty((len(raw), geometry.height, geometry.width, 2), np.float32) if out is None else out
    if geometry.is_scaled:
        for target, planes in zip(flows, cropped, strict=True):
            _scale_back(planes, geometry, target)
    else:  # a plane at a time, in a sixth of the time of a copy of the transposed array
        flows[..., 0], flows[..., 1] = cropped[:, 0], cropped[:, 1]
    return flows


def _scale_back(planes: FloatArray, geometry: Geometry, target: FloatArray) -> None:
    """Resize flow (2, h, w) of the scaled frames into ``target`` (H, W, 2), the size of the caller's."""
    import cv2

    size = (geometry.width, geometry.height)
    cv2.resize(cv2.merge(tuple(planes)), size, dst=target, interpolation=cv2.INTER_LINEAR)
    target *= np.array(geometry.ratio, np.float32)


def resize_square(image: Uint8Array, side: int) -> Uint8Array:
    """Resize a whole image (H, W, 3) to (side, side, 3): aspect is not kept, nothing is cropped."""
    return _resize(image, side, side)


def _resize(image: Uint8Array, width: int, height: int) -> Uint8Array:
    """Average the axes that shrink first, then interpolate those that grow, so that no axis aliases."""
    import cv2

    h, w = image.shape[:2]
    shrunk = (min(w, width), min(h, height))
    if shrunk != (w, h):
        image = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    if shrunk != (width, height):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return image
