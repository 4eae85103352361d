"""Forward-backward consistency: Sundaram, Brox and Keutzer, ECCV 2010, equation 5."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mcjepa_server.engine import FloatArray


def occlusion_mask(flow12: FloatArray, flow21: FloatArray) -> NDArray[np.bool_]:
    """True where a pixel of frame 1 cannot be trusted to be seen in frame 2.

    Both flows are (H, W, 2) px, (dx, dy). A pixel is occluded if it leaves the frame, or if
    |f + b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5 where b is the backward flow at the place that f points to.
    """
    import cv2  # 11 MB of a process, for few requests

    h, w = flow12.shape[:2]
    x = np.arange(w, dtype=np.float32) + flow12[..., 0]
    y = np.arange(h, dtype=np.float32)[:, None] + flow12[..., 1]
    back = cv2.remap(flow21, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    mismatch = np.square(flow12 + back).sum(axis=-1)
    bound = 0.01 * (np.square(flow12).sum(axis=-1) + np.square(back).sum(axis=-1)) + 0.5
    outside = (x < 0) | (x > w - 1) | (y < 0) | (y > h - 1)
    mask: NDArray[np.bool_] = outside | (mismatch > bound)
    return mask
