"""How far a flow is from the ground truth. Smaller is better throughout.

Shapes: flow and gt (H, W, 2) px; valid bool (H, W), the pixels whose true flow is known.
"""

import numpy as np


def epe(flow: np.ndarray, gt: np.ndarray, valid: np.ndarray) -> float:
    """Mean end-point error, px."""
    return float(_errors(flow, gt, valid).mean())


def fl_all(flow: np.ndarray, gt: np.ndarray, valid: np.ndarray) -> float:
    """KITTI 2015 outliers, per cent: pixels off by more than 3 px and by more than 5 % of the true flow."""
    error = _errors(flow, gt, valid)
    length = np.linalg.norm(gt[valid].astype(np.float64), axis=-1)
    return _outliers((error <= 3.0) | (error <= 0.05 * length))


def px1(flow: np.ndarray, gt: np.ndarray, valid: np.ndarray) -> float:
    """Pixels off by more than 1 px, per cent."""
    return _outliers(_errors(flow, gt, valid) <= 1.0)


def px3(flow: np.ndarray, gt: np.ndarray, valid: np.ndarray) -> float:
    """Pixels off by more than 3 px, per cent."""
    return _outliers(_errors(flow, gt, valid) <= 3.0)


def _errors(flow: np.ndarray, gt: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """End-point errors (n,) of the valid pixels, px. Raises ValueError for wrong shapes or none valid."""
    if flow.shape != gt.shape or flow.shape != (*valid.shape, 2):
        raise ValueError(f"flow {flow.shape}, gt {gt.shape} and valid {valid.shape} do not fit together")
    if not valid.any():
        raise ValueError("no pixel has a known flow")
    return np.linalg.norm(flow[valid].astype(np.float64) - gt[valid], axis=-1)


def _outliers(good: np.ndarray) -> float:
    return 100.0 * float(1.0 - good.mean())  # counted from the good ones, so that NaN is an outlier
