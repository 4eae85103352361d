"""What is asked for of a video, and the clips that answer it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from mcjepa_client._errors import InputError
from mcjepa_client._results import Direction
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
from mcjepa_client._video.sources import VideoInput, open_source

DEFAULT_IN_FLIGHT = 2
DEFAULT_PATIENCE = 600.0


@dataclass(frozen=True)
class VideoOptions:
    """How a video is computed: see `Client.video`. Raises InputError for values that make no sense."""

    direction: Direction = "forward"
    occlusion: bool = False
    max_side: int | None = None
    clip_frames: int = DEFAULT_CLIP_FRAMES

    def __post_init__(self) -> None:
        if self.direction not in ("forward", "both"):
            raise InputError(f"direction: a video is 'forward' or 'both', not {self.direction!r}")
        check_clip_frames(self.clip_frames)

    def length(self, shape: tuple[int, ...], limits: ClipLimits) -> int:
        """Frames of a clip, for frames of this shape."""
        return clip_length(self.clip_frames, shape, 2 if self.direction == "both" else 1, limits)


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

    def clips(self, limits: ClipLimits, skip: int = 0) -> Iterator[Clip]:
        """The clips from frame number `skip` (of the selected ones) on, which must begin a clip."""
        shots = load_shots(self.source, self.selection, skip)
        first = next(shots, None)  # its size decides how long clips are
        if first is None:
            yield from cut_clips(shots, 2)
            return
        yield from cut_clips(chain([first], shots), self.options.length(first.image.shape, limits), skip)


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
