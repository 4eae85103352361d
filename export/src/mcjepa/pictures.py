"""Pictures on their way into a model: padded to its stride, scaled to a square, stacked as a tensor."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from mcjepa.model.joint import STRIDE


def pad_to_stride(img: np.ndarray) -> np.ndarray:
    """Repeat the last row and column until H and W are multiples of the stride."""
    h, w = img.shape[:2]
    return np.pad(img, ((0, -h % STRIDE), (0, -w % STRIDE), (0, 0)), mode="edge")


def to_square(img: np.ndarray, side: int) -> np.ndarray:
    """The whole image as (side, side, 3): axes that shrink are averaged, then axes that grow interpolated.

    The gateway prepares images for `mcjepa_embed` in the same way.
    """
    h, w = img.shape[:2]
    shrunk = (min(w, side), min(h, side))
    if shrunk != (w, h):
        img = cv2.resize(img, shrunk, interpolation=cv2.INTER_AREA)
    if shrunk != (side, side):
        img = cv2.resize(img, (side, side), interpolation=cv2.INTER_LINEAR)
    return img


def to_tensor(images: Sequence[np.ndarray]) -> torch.Tensor:
    """Images (H, W, 3) -> (B, 3, H, W)."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
