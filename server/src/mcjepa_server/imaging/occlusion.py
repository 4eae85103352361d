"""Forward-backward consistency: Sundaram, Brox and Keutzer, ECCV 2010, equation 5."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mcjepa_server.types import FloatArray

_STRIP = 2**18  # pixels at a time: what a whole frame takes in between is four times its flow


def occlusion_mask(flow12: FloatArray, flow21: FloatArray) -> NDArray[np.bool_]:
    """True where a pixel of frame 1 cannot be trusted to be seen in frame 2.

    Both flows are (H, W, 2) px, (dx, dy). A pixel is occluded if it leaves the frame, or if
    |f + b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5 where b is the backward flow at the place that f points to.
    """
    h, w = flow12.shape[:2]
    mask = np.empty((h, w), np.bool_)
    rows = max(1, _STRIP // w)
    for top in range(0, h, rows):
        mask[top : top + rows] = _strip(flow12[top : top + rows], flow21, top)
    return mask


def _strip(flow12: FloatArray, flow21: FloatArray, top: int) -> NDArray[np.bool_]:
    """Return the mask of the rows from ``top`` on, whose flow is ``flow12``."""
    import cv2  # 11 MB of a process, for few requests

    h, w = flow21.shape[:2]
    x = np.arange(w, dtype=np.float32) + flow12[..., 0]
    y = np.arange(top, top + len(flow12), dtype=np.float32)[:, None] + flow12[..., 1]
    back = cv2.remap(flow21, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    mismatch = np.square(flow12 + back).sum(axis=-1)
    bound = 0.01 * (np.square(flow12).sum(axis=-1) + np.square(back).sum(axis=-1)) + 0.5
    outside = (x < 0) | (x > w - 1) | (y < 0) | (y > h - 1)
    mask: NDArray[np.bool_] = outside | (mismatch > bound)
    return mask
