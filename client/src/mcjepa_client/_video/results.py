"""What comes back for each frame of a video."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcjepa_client._results import AnalyzeResult
from mcjepa_client._video.clips import Clip
from mcjepa_client._video.frames import Image
from mcjepa_client._video.shrink import enlarge_flow, enlarge_mask
from mcjepa_client.flow_io import Flow, Mask


@dataclass(frozen=True)
class FrameResult:
    """One frame of a video, and the motion from it to the next frame that was selected.

    Attributes:
        index: number of the frame in its source, from 0; with a stride they are not consecutive.
        timestamp: seconds since the first frame of the source.
        flow: (H, W, 2) float32 px, (dx, dy), from this frame to the next; None for the last frame.
        embedding: (D,) float32 of length 1.
        flow_backward: (H, W, 2) float32 from the next frame to this one, where asked for.
        occlusion: (H, W) bool where asked for, True where a pixel has no counterpart in the next frame.
        image: (H, W, 3) uint8 RGB, the frame itself, upright.
        meta: what the server says about the computation.
    """

    index: int
    timestamp: float
    flow: Flow | None
    embedding: NDArray[np.float32]
    flow_backward: Flow | None
    occlusion: Mask | None
    image: Image
    meta: dict[str, Any] = field(default_factory=dict)


def frame_results(clip: Clip, analysis: AnalyzeResult) -> Iterator[FrameResult]:
    """The results of the frames that a clip answers for."""
    for place, shot in enumerate(clip.own):
        pair = analysis[place] if place < len(clip.shots) - 1 else None
        mask = pair.occlusion if pair else None
        yield FrameResult(
            index=shot.index,
            timestamp=shot.timestamp,
            flow=_enlarged(pair.flow if pair else None, shot.image),
            embedding=analysis.embeddings[place],
            flow_backward=_enlarged(pair.backward if pair else None, shot.image),
            occlusion=None if mask is None else enlarge_mask(mask, shot.image.shape),
            image=shot.image,
            meta=analysis.meta,
        )


def _enlarged(flow: Flow | None, image: Image) -> Flow | None:
    """Frames may have been sent smaller than they are."""
    return None if flow is None else enlarge_flow(flow, image.shape)


def deliver(clip: Clip, analysis: AnalyzeResult) -> Iterator[FrameResult]:
    """The results of a clip, then the error that ended the source, if one did."""
    yield from frame_results(clip, analysis)
    if clip.error is not None:
        raise clip.error


def join_parts(parts: Sequence[AnalyzeResult]) -> AnalyzeResult:
    """The analyses of the parts of a clip, which overlap by one frame, as one."""
    if len(parts) == 1:
        return parts[0]
    first, *others = parts

    def joined(arrays: Sequence[NDArray[Any] | None]) -> Any:
        present = [array for array in arrays if array is not None]
        return np.concatenate(present) if present else None

    return AnalyzeResult(
        flows=joined([part.flows for part in parts]),
        embeddings=joined([first.embeddings, *(part.embeddings[1:] for part in others)]),
        backward=joined([part.backward for part in parts]),
        occlusion=joined([part.occlusion for part in parts]),
        meta=first.meta,
        request_id=first.request_id,
    )
