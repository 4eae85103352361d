"""What is asked for of a video, and the clips that answer it."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias, get_args

from mcjepa_client._errors import InputError, VideoError
from mcjepa_client._requests import FlowRequest, check_quality
from mcjepa_client._results import Direction, Quality
from mcjepa_client._video.clips import (
    DEFAULT_CLIP_FRAMES,
    Clip,
    ClipLimits,
    check_clip_frames,
    clip_length,
    cut_clips,
    load_shots,
)
from mcjepa_client._video.frames import Selection, Source
from mcjepa_client._video.overlay import View
from mcjepa_client._video.sources import VideoInput, open_source
from mcjepa_client._video.store import FlowStorage

#: Called with the stage ("flow" or "overlay"), the frames done, and all frames as far as that is known.
Progress: TypeAlias = Callable[[str, int, int | None], None]

DEFAULT_IN_FLIGHT = 2
DEFAULT_PATIENCE = 600.0


@dataclass(frozen=True)
class VideoOptions:
    """How a video is computed: see `Client.video`. Raises InputError for values that make no sense."""

    direction: Direction = "forward"
    occlusion: bool = False
    max_side: int | None = None
    clip_frames: int = DEFAULT_CLIP_FRAMES
    quality: Quality | None = None

    def __post_init__(self) -> None:
        if self.quality is not None:
            check_quality(self.quality)
        if self.direction not in ("forward", "both"):
            raise InputError(f"direction: a video is 'forward' or 'both', not {self.direction!r}")
        check_clip_frames(self.clip_frames)

    def request(self) -> FlowRequest:
        """Return what is asked of each clip."""
        return FlowRequest(self.direction, self.occlusion, self.max_side, self.quality)

    def length(self, shape: tuple[int, ...], limits: ClipLimits) -> int:
        """Frames of a clip, for frames of this shape."""
        directions = 2 if self.direction == "both" else 1
        return clip_length(self.clip_frames, shape, directions, self.max_side, limits)


@dataclass(frozen=True)
class Outputs:
    """What is written besides the embeddings: see `Client.process`."""

    flow: FlowStorage = "zarr"
    overlay: View | None = "overlay"

    def __post_init__(self) -> None:
        if self.flow not in get_args(FlowStorage):
            raise InputError(f"flow: expected one of {', '.join(get_args(FlowStorage))}, got {self.flow!r}")
        if self.overlay is not None and self.overlay not in get_args(View):
            raise InputError(
                f"overlay: expected None or one of {', '.join(get_args(View))}, got {self.overlay!r}"
            )


@dataclass(frozen=True)
class Effort:
    """How hard is tried: requests under way per server, and seconds that one may go on failing."""

    in_flight: int = DEFAULT_IN_FLIGHT
    patience: float = DEFAULT_PATIENCE

    def __post_init__(self) -> None:
        if isinstance(self.in_flight, bool) or not isinstance(self.in_flight, int) or self.in_flight < 1:
            raise InputError(f"in_flight: expected a whole number above 0, got {self.in_flight!r}")
        if not self.patience >= 0:
            raise InputError(f"patience: expected 0 s or more, got {self.patience!r}")


@dataclass(frozen=True)
class VideoJob:
    """A source, what is wanted of it, and how."""

    source: Source
    selection: Selection
    options: VideoOptions

    def clips(self, limits: ClipLimits, skip: int = 0, length: int | None = None) -> Iterator[Clip]:
        """The clips from frame number `skip` (of the selected ones) on, which must begin a clip.

        They have `length` frames, or as many as the size of the first and the limits ask for.
        """
        shots = load_shots(self.source, self.selection, skip)
        if length is not None:
            yield from cut_clips(shots, length, skip)
        elif (first := next(shots, None)) is not None:
            yield from cut_clips(chain([first], shots), self.options.length(first.image.shape, limits), skip)
        else:
            raise VideoError(f"{self.source.name}: there is no frame in this range")


def plan_job(
    source: VideoInput,
    stride: int,
    start: float | None,
    stop: float | None,
    fps: float,
    options: VideoOptions,
) -> VideoJob:
    selection = Selection(stride, start or 0.0, math.inf if stop is None else stop)
    return VideoJob(open_source(source, fps), selection, options)
