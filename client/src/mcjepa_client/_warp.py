"""Pulling a frame back along a flow, and which pixels that cannot be done for.

Convention: flow is (H, W, 2) px, (dx, dy); the point at (x, y) of frame 1 lies at (x + dx, y + dy) in frame
2; pixel centres are at integers, so a frame reaches from 0 to W - 1 and from 0 to H - 1.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from mcjepa_client._errors import InputError
from mcjepa_client._extras import require_opencv
from mcjepa_client._images import to_pixels
from mcjepa_client.flow_io import UNKNOWN_THRESHOLD, Flow, Mask, check_flow, known_pixels

Vectors = NDArray[np.floating[Any]]  # (..., 2)

# Of the forward-backward check: 1 % of the squared lengths, and half a squared pixel.
_RELATIVE = 0.01
TOLERANCE = 0.5**0.5  # px


def warp(image: NDArray[Any] | Image, flow: Flow) -> NDArray[np.uint8]:
    """Frame 1 as the pixels of frame 2 show it: `out[y, x] = image[y + dy, x + dx]`, bilinear.

    With a flow from frame 2 to frame 1 it takes frame 1 to frame 2 instead.

    Args:
        image: frame 2, that is the frame that `flow` points into: an array (H, W, 3) RGB or (H, W) grey of
            uint8, uint16 or bool, or a PIL image.
        flow: (H, W, 2) px, (dx, dy).

    Returns:
        uint8, (H, W, 3) or (H, W). Pixels whose source lies outside the frame, or is unknown, are 0.

    Raises:
        InputError: wrong dtype or shape, or sizes that differ.
        MissingExtraError: OpenCV is not installed.
    """
    flow = check_flow(flow)
    pixels = to_pixels(image, "image")
    check_size(pixels, flow.shape[:2], "image")
    height, width = flow.shape[:2]
    # Two pixels outside takes no part of the border. What OpenCV makes of NaN depends on the processor.
    target = np.where(known_pixels(flow)[..., None], targets(flow), np.float32(-2))
    target = np.clip(target, -2, np.array([width + 1, height + 1], np.float32))
    cv2 = require_opencv()
    return np.asarray(cv2.remap(pixels, target[..., 0], target[..., 1], cv2.INTER_LINEAR), np.uint8)


def occlusion(flow_forward: Flow, flow_backward: Flow) -> Mask:
    """Where frame 1 cannot be trusted to be seen in frame 2, by the rule of the server.

    A pixel is occluded if it leaves the frame, or if |f + b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5, where f is its
    forward flow and b the backward flow at the place that f points to. Source: Sundaram, Brox and Keutzer,
    "Dense Point Trajectories by GPU-accelerated Large Displacement Optical Flow" (ECCV 2010), equation 5.

    Args:
        flow_forward: (H, W, 2) px, frame 1 to frame 2.
        flow_backward: (H, W, 2) px, frame 2 to frame 1.

    Returns:
        (H, W) bool, True where occluded. Pixels whose flow is unknown, or leads to an unknown one, are.

    Raises:
        InputError: wrong shapes, or sizes that differ.
        MissingExtraError: OpenCV is not installed.
    """
    forward, backward = check_flow(flow_forward), check_flow(flow_backward)
    check_size(backward, forward.shape[:2], "flow_backward")
    known, known_back = known_pixels(forward), known_pixels(backward)
    forward, backward = (
        np.where(mask[..., None], flow, 0) for mask, flow in ((known, forward), (known_back, backward))
    )
    target = targets(forward)
    back = _pull(backward, target)
    unknown = ~known | (_pull(known_back.astype(np.float32), target) < 1)
    return unknown | leaves_frame(target, known.shape) | disagree(forward, back)


def targets(flow: Flow) -> Flow:
    """(H, W, 2) px, (x, y): where each pixel of frame 1 lies in frame 2, nonsense where unknown."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.dstack([x, y]) + flow


def _pull(values: NDArray[np.float32], target: Flow) -> NDArray[np.float32]:
    """`values` at the target of each pixel, in OpenCV's steps of 1/32 px as the server takes them."""
    x, y = target[..., 0], target[..., 1]
    cv2 = require_opencv()
    pulled = cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(pulled, np.float32)


def check_size(array: NDArray[Any], size: tuple[int, ...], name: str) -> None:
    """Raises InputError that names the argument unless `array` is of `size` (height, width)."""
    if array.shape[:2] != size:
        raise InputError(f"{name}: expected size {size} (height, width), got {array.shape[:2]}")


def disagree(forward: Vectors, back: Vectors, tolerance: float = TOLERANCE) -> Mask:
    """True where the way there and the way back, both (..., 2) px, do not cancel out, or one is NaN."""
    bound = _RELATIVE * (_squared(forward) + _squared(back)) + np.float32(tolerance**2)
    agree: Mask = _squared(forward + back) <= bound
    return ~agree


def _squared(vectors: Vectors) -> Vectors:
    lengths: Vectors = np.square(vectors).sum(axis=-1)
    return lengths


def leaves_frame(points: Vectors, size: tuple[int, ...]) -> Mask:
    """True where points (..., 2) px, (x, y), lie outside a frame of `size` (height, width), or are NaN."""
    height, width = size
    x, y = points[..., 0], points[..., 1]
    inside: Mask = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return ~inside


def sample(flow: Flow, points: Vectors) -> NDArray[np.float64]:
    """Flow at points between the pixels, bilinear and exact.

    Args:
        flow: (H, W, 2) px.
        points: (P, 2) px, (x, y).

    Returns:
        (P, 2) px; NaN where a point lies outside the frame or a pixel that takes part is unknown.
    """
    height, width = flow.shape[:2]
    outside = leaves_frame(points, (height, width))
    x, y = np.where(outside[:, None], 0, points).astype(np.float64).T
    left, top = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    fx, fy = x - left, y - top
    weights = np.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy])[..., None]  # (4, P, 1)
    corners = np.stack([flow[top, left], flow[top, right], flow[bottom, left], flow[bottom, right]])
    corners = np.where(np.abs(corners) <= UNKNOWN_THRESHOLD, corners, np.nan)  # (4, P, 2)
    sampled = np.where(weights > 0, weights * corners, 0).sum(axis=0)
    sampled[outside] = np.nan
    return np.asarray(sampled)
