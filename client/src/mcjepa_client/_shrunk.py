"""Frames held as pixels, sent as large as a server computes them, and what comes back, enlarged."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mcjepa_client._images import ImageInput, size_of, to_pixels
from mcjepa_client._results import AnalyzeResult, FlowResult
from mcjepa_client._video.clips import ClipLimits
from mcjepa_client._video.shrink import enlarge_flow, enlarge_mask, shrink

Pixels = NDArray[Any] | Image.Image


def are_pixels(frames: Sequence[ImageInput]) -> TypeGuard[Sequence[Pixels]]:
    """Return whether all frames are arrays or PIL images. Files and bytes are sent as they are."""
    return all(isinstance(frame, np.ndarray | Image.Image) for frame in frames)


def shrink_pixels(frames: Sequence[Pixels], max_side: int | None, limits: ClipLimits) -> list[ImageInput]:
    """Return frames of one size as large as the server computes them."""
    size = limits.computed_size(size_of(frames[0]), max_side)
    return [_shrunk(frame, size) for frame in frames]


def _shrunk(frame: Pixels, size: tuple[int, int]) -> NDArray[np.uint8]:
    pixels = to_pixels(frame, "frame")
    if pixels.ndim == 3:
        return shrink([pixels], size)[0]
    return shrink([np.broadcast_to(pixels[..., None], (*pixels.shape, 3))], size)[0][..., 0]


def enlarge_pair(result: FlowResult, shape: tuple[int, ...]) -> FlowResult:
    """Return the result of shrunk frames in the size and the px of the frames themselves, (H, W)."""
    backward, mask = result.backward, result.occlusion
    return replace(
        result,
        flow=enlarge_flow(result.flow, shape),
        backward=None if backward is None else enlarge_flow(backward, shape),
        occlusion=None if mask is None else enlarge_mask(mask, shape),
    )


def enlarge_analysis(result: AnalyzeResult, shape: tuple[int, ...]) -> AnalyzeResult:
    """Return what `enlarge_pair` does, of every pair."""
    backward, masks = result.backward, result.occlusion
    return replace(
        result,
        flows=np.stack([enlarge_flow(flow, shape) for flow in result.flows]),
        backward=None if backward is None else np.stack([enlarge_flow(flow, shape) for flow in backward]),
        occlusion=None if masks is None else np.stack([enlarge_mask(mask, shape) for mask in masks]),
    )
