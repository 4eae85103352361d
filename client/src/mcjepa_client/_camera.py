"""The motion of the camera between two frames, out of the flow."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcjepa_client._errors import InputError
from mcjepa_client._extras import require_opencv
from mcjepa_client.flow_io import Flow, Mask, check_flow, known_pixels

_VECTORS = 2000  # about so many take part
_TOLERANCE = 0.002  # of the frame's diagonal, at least 1 px: a vector so near the motion belongs to it
_SCALES = 0.5, 2.0  # no camera zooms faster from one frame to the next


@dataclass(frozen=True)
class CameraMotion:
    """How the still parts of a scene move from one frame to the next, because the camera does.

    Attributes:
        matrix: (2, 3) float64, a rotation, a uniform scale and a shift; takes (x, y, 1) px of frame 1 to
            (x, y) px of frame 2.
        inliers: share of the vectors that move so, 0 to 1. Little means that there is no one camera motion:
            a cut, or something large that moves before the camera.
    """

    matrix: NDArray[np.float64]
    inliers: float


def camera_motion(flow: Flow, occlusion: Mask | None = None) -> CameraMotion:
    """Estimate the camera's motion by RANSAC over a grid of flow vectors: moving objects do not count.

    Args:
        flow: (H, W, 2) px, (dx, dy), frame 1 to frame 2.
        occlusion: (H, W) bool; vectors where it is True are left out, as unknown ones are.

    Returns:
        CameraMotion; no motion, with 0 inliers, when none can be found.

    Raises:
        InputError: wrong shapes.
        MissingExtraError: OpenCV is not installed.
    """
    flow = check_flow(flow)
    height, width = flow.shape[:2]
    usable = known_pixels(flow)
    if occlusion is not None:
        if np.shape(occlusion) != usable.shape:
            raise InputError(f"occlusion: expected shape {usable.shape}, got {np.shape(occlusion)}")
        usable &= ~np.asarray(occlusion, bool)
    step = max(1, round((height * width / _VECTORS) ** 0.5))
    start = step // 2 if min(height, width) > step else 0
    y, x = np.nonzero(usable[start::step, start::step])
    points = np.stack([x, y], axis=1) * step + start  # (P, 2) px
    return _fit(points.astype(np.float64), flow[points[:, 1], points[:, 0]], float(np.hypot(height, width)))


def _fit(points: NDArray[np.float64], vectors: Flow, diagonal: float) -> CameraMotion:
    nothing = CameraMotion(np.eye(2, 3), 0.0)
    if len(points) < 3:  # two would fit any motion
        return nothing
    cv2 = require_opencv()
    matrix, inside = cv2.estimateAffinePartial2D(
        points,
        points + vectors,
        method=cv2.RANSAC,
        ransacReprojThreshold=max(1.0, _TOLERANCE * diagonal),
    )
    if matrix is None or not _SCALES[0] < np.hypot(matrix[0, 0], matrix[1, 0]) < _SCALES[1]:
        return nothing
    return CameraMotion(matrix.astype(np.float64), float(np.mean(inside)))
