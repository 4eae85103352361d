"""Frames of a video, and which of them are wanted."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mcjepa_client._errors import InputError

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Frame:
    """One frame, not yet turned into pixels.

    Attributes:
        index: number in the source, from 0, counting every frame.
        timestamp: seconds since the first frame of the source.
        load: gives (H, W, 3) uint8 RGB, upright. Raises VideoError when it cannot be read.
        damage: what was passed over before this frame, if anything was.
    """

    index: int
    timestamp: float
    load: Callable[[], Image]
    damage: str | None = None


@dataclass(frozen=True)
class SourceInfo:
    """What is known of a source before reading it. None where it does not say.

    Attributes:
        frames: number of frames, estimated from duration and rate where the file does not count them.
        duration: seconds.
        width, height: px, upright.
    """

    frames: int | None = None
    duration: float | None = None
    width: int | None = None
    height: int | None = None


class Source(Protocol):
    """Something that has frames, in order."""

    @property
    def name(self) -> str: ...

    def info(self) -> SourceInfo: ...

    def frames(self, start: float = 0.0) -> Iterator[Frame]:
        """All frames from the first on, anew at each call. Raises VideoError where it cannot go on.

        Frames before `start` seconds may be missing: damage that ends before it is passed over.
        """
        ...


@dataclass(frozen=True)
class Selection:
    """Every `stride`-th frame with `start` <= timestamp < `stop`, in seconds."""

    stride: int = 1
    start: float = 0.0
    stop: float = math.inf

    def __post_init__(self) -> None:
        if isinstance(self.stride, bool) or not isinstance(self.stride, int) or self.stride < 1:
            raise InputError(f"stride: expected a whole number above 0, got {self.stride!r}")
        if not (math.isfinite(self.start) and self.start >= 0):
            raise InputError(f"start: expected 0 s or more, got {self.start!r}")
        if not self.stop > self.start:
            raise InputError(f"stop: expected more than start ({self.start:g} s), got {self.stop!r}")

    def of(self, source: Source) -> Iterator[Frame]:
        return islice(self._between(source.frames(self.start)), 0, None, self.stride)

    def _between(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        for frame in frames:
            if frame.timestamp >= self.stop:
                return
            if frame.timestamp >= self.start:
                yield frame

    def count(self, info: SourceInfo) -> int | None:
        """How many frames of a source that will be, about."""
        if not info.frames:
            return None
        rate = info.frames / info.duration if info.duration else math.inf
        first = min(info.frames, math.ceil(self.start * rate)) if self.start else 0
        last = min(info.frames, math.ceil(self.stop * rate)) if math.isfinite(self.stop) else info.frames
        return max(0, -(-(last - first) // self.stride))


def round_up(seconds: float) -> float:
    """To whole milliseconds: a `start` that does not begin before that time."""
    return math.ceil(round(seconds * 1000, 6)) / 1000
