"""Long tracks of points, chained from the flow between neighbouring frames."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcjepa_client._errors import InputError
from mcjepa_client._pairs import HasFlow, backward_flow, flows
from mcjepa_client._warp import TOLERANCE, check_size, disagree, leaves_frame, sample
from mcjepa_client.flow_io import Flow, Mask


@dataclass(frozen=True)
class TrackedPoints:
    """Where the points are in one frame.

    Attributes:
        index: the frame, counted from 0, the one in which the points were given.
        points: (P, 2) float32 px, (x, y), in the order they were given; NaN where not `visible`.
        visible: (P,) bool. A point that is lost, because it is hidden or has left the frame, stays lost.
    """

    index: int
    points: NDArray[np.float32]
    visible: Mask


def tracks(
    points: ArrayLike, results: Iterable[HasFlow], *, tolerance: float = TOLERANCE
) -> Iterator[TrackedPoints]:
    """Follow points through a video.

    Each point goes with the flow at its place, sampled between the pixels, from frame to frame. It is given
    up when the flow back does not lead to where it came from (the rule of `occlusion`), when it leaves the
    frame, or when the flow is unknown. Frames are taken one at a time: memory does not grow with the video.
    Source: Sundaram, Brox and Keutzer (ECCV 2010).

    Args:
        points: (P, 2) px, (x, y), in the first frame; see `grid_points` for evenly spread ones.
        results: with flow in both directions, in order: the frames of `Client.video(...)`, an
            `AnalyzeResult`, or any iterable of `FlowResult`, computed with direction="both".
        tolerance: px by which the way back may miss, and 10 % of the motion on top of it (both squared). The
            default is that of `occlusion`; more keeps points for longer, and lets them drift more.

    Yields:
        TrackedPoints, one per frame: N for the N - 1 flows between N frames.

    Raises:
        InputError: points of another shape or not finite, a tolerance that is not positive, a result
            without backward flow, sizes that differ.
    """
    if not 0 < tolerance < float("inf"):
        raise InputError(f"tolerance: expected a positive number of px, got {tolerance}")
    return _follow(_check_points(points), results, tolerance)


def _follow(
    points: NDArray[np.float64], results: Iterable[HasFlow], tolerance: float
) -> Iterator[TrackedPoints]:
    index = 0
    for index, (result, flow) in enumerate(flows(results)):
        backward = backward_flow(result)
        if backward is None:
            raise InputError(f"results[{index}]: no backward flow to check with; ask for direction='both'")
        check_size(backward, flow.shape[:2], f"results[{index}].flow_backward")
        if index == 0:
            points = np.where(leaves_frame(points, flow.shape[:2])[:, None], np.nan, points)
            yield _tracked(0, points)
        points = _step(points, flow, backward, tolerance)
        yield _tracked(index + 1, points)


def grid_points(size: tuple[int, int], step: int) -> NDArray[np.float32]:
    """Points spread evenly over a frame of `size` (height, width), `step` px apart: (P, 2) px, (x, y)."""
    if step < 1 or min(size) < 1:
        raise InputError(f"grid_points: expected size and step of 1 px or more, got {size} and {step}")
    height, width = size
    # What is left over goes to both sides.
    x, y = np.meshgrid(
        np.arange((width - 1) % step // 2, width, step), np.arange((height - 1) % step // 2, height, step)
    )
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


def _check_points(points: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(points)
    if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in "fiu":
        raise InputError(f"points: expected numbers of shape (P, 2), got {array.dtype} {array.shape}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise InputError(f"points[{int(np.argwhere(~np.isfinite(array))[0, 0])}]: not finite")
    return array


def _step(points: NDArray[np.float64], flow: Flow, backward: Flow, tolerance: float) -> NDArray[np.float64]:
    """(P, 2) in the next frame, NaN where lost."""
    forward = sample(flow, points)
    moved = points + forward
    lost = disagree(forward, sample(backward, moved), tolerance)  # outside the frame it is NaN: lost
    return np.where(lost[:, None], np.nan, moved)


def _tracked(index: int, points: NDArray[np.float64]) -> TrackedPoints:
    return TrackedPoints(index, points.astype(np.float32), ~np.isnan(points[:, 0]))
