"""J and F of DAVIS 2017: how well a predicted mask covers an object, and how well it follows its outline.

After Perazzi et al., 2016, section 5, and Pont-Tuset et al., 2017. Masks are bool (H, W).
"""

import cv2
import numpy as np

TOLERANCE = 0.008  # of the diagonal: how far a point of one outline may lie from the other


def region_similarity(mask: np.ndarray, truth: np.ndarray) -> float:
    """J: intersection over union, 0 to 1; 1 where both are empty."""
    union = (mask | truth).sum()
    return float((mask & truth).sum() / union) if union else 1.0


def boundary_f(mask: np.ndarray, truth: np.ndarray) -> float:
    """F: harmonic mean of the shares of each outline near the other, 0 to 1; 1 where both are empty."""
    outline, true_outline = boundary(mask), boundary(truth)
    if not outline.any() or not true_outline.any():
        return float(outline.any() == true_outline.any())
    reach = _disk(int(np.ceil(TOLERANCE * np.hypot(*mask.shape))))
    precision = float((_grown(true_outline, reach) & outline).sum() / outline.sum())
    recall = float((_grown(outline, reach) & true_outline).sum() / true_outline.sum())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: np.ndarray) -> np.ndarray:
    """The outline, bool (H, W): pixels that differ from the one to the right, below, or below to the right.

    The last row and the last column have fewer such neighbours.
    """
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, diagonal = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (mask != right) | (mask != below) | (mask != diagonal)


def _grown(outline: np.ndarray, reach: np.ndarray) -> np.ndarray:
    return cv2.dilate(outline.astype(np.uint8), reach) > 0


def _disk(radius: int) -> np.ndarray:
    offsets = np.arange(-radius, radius + 1)
    return (offsets[:, None] ** 2 + offsets[None, :] ** 2 <= radius**2).astype(np.uint8)
