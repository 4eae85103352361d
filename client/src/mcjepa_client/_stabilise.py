"""Steady video from shaky video: smooth the path of the camera, and crop what that leaves empty."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from mcjepa_client._camera import CameraMotion, camera_motion
from mcjepa_client._errors import InputError
from mcjepa_client._extras import require_opencv
from mcjepa_client._images import to_pixels
from mcjepa_client._pairs import HasFlow, flows
from mcjepa_client._steady_path import damp, kept, smooth, to_matrices
from mcjepa_client._warp import check_size

_MAX_SMOOTHING = 200


@dataclass(frozen=True)
class Stabilisation:
    """What holds a video steady.

    Attributes:
        matrices: (N, 2, 3) float64; takes (x, y, 1) px of frame i to (x, y) px of the steady frame, which is
            as large and shows the part that was kept.
        size: (height, width) of the frames.
        zoom: 1 or more: how much the part that was kept is enlarged; its sides are 1 / zoom of the frame's.
        motions: the N - 1 camera motions that were found.
    """

    matrices: NDArray[np.float64]
    size: tuple[int, int]
    zoom: float
    motions: tuple[CameraMotion, ...]

    def __len__(self) -> int:
        """The number of frames, N."""
        return len(self.matrices)

    def apply(self, index: int, image: NDArray[Any] | Image) -> NDArray[np.uint8]:
        """Frame `index` (from 0), held steady, as uint8 (H, W, 3) or (H, W). Without empty borders.

        It takes what `warp` takes. Raises InputError for another dtype, shape or size, or an index that is
        not 0 to N - 1.
        """
        pixels = to_pixels(image, "image")
        check_size(pixels, self.size, "image")
        if not 0 <= index < len(self):
            raise InputError(f"index: expected 0 to {len(self) - 1}, got {index}")
        height, width = self.size
        cv2 = require_opencv()
        # The border is only met by rounding.
        steady = cv2.warpAffine(
            pixels,
            self.matrices[index],
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return np.asarray(steady, np.uint8)


def stabilise(results: Iterable[HasFlow], *, smoothing: float = 15.0, max_crop: float = 0.2) -> Stabilisation:
    """Plan how to hold a video steady: the camera's shake goes, its smooth motion stays.

    The camera's motion is estimated from each flow (see `camera_motion`), and across a cut nothing is
    smoothed. Only the motions are kept, a few hundred bytes a frame. Apply the plan in a second pass.

    Args:
        results: the frames of `Client.video(...)`, an `AnalyzeResult`, or any iterable of `FlowResult`.
        smoothing: standard deviation of the Gaussian in frames, at most 200: shake faster than this goes.
        max_crop: at most this share of each side may be cropped, 0 to less than 1. Where the shake needs
            more, it is only damped.

    Raises:
        InputError: no result, sizes that differ, values out of range.
    """
    if not 0 < smoothing <= _MAX_SMOOTHING:
        raise InputError(
            f"smoothing: expected more than 0 and at most {_MAX_SMOOTHING} frames, got {smoothing}"
        )
    if not 0 <= max_crop < 1:
        raise InputError(f"max_crop: expected 0 to less than 1, got {max_crop}")
    size, motions = _camera_motions(results)
    steadying = damp(smooth(motions, size, smoothing), size, 1 - max_crop, smoothing)
    zoom = 1 / float(kept(steadying, size).min())
    return Stabilisation(to_matrices(steadying, size, zoom), size, zoom, motions)


def _camera_motions(results: Iterable[HasFlow]) -> tuple[tuple[int, int], tuple[CameraMotion, ...]]:
    size, motions = (0, 0), []
    for result, flow in flows(results):
        size = flow.shape[:2]
        motions.append(camera_motion(flow, getattr(result, "occlusion", None)))
    if not motions:
        raise InputError("results: there is no flow, and without one nothing can be held steady")
    return size, tuple(motions)
