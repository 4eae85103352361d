"""A video as clips that overlap by one frame, so that each frame but those passes the encoder once.

How a video is cut depends on nothing but its frames and the length of a clip: a run that goes on where
another was killed asks for the very same clips.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from mcjepa_client._errors import InputError, VideoError
from mcjepa_client._video.frames import Frame, Image, Selection, Source, round_up
from mcjepa_client._video.shrink import computed_size

DEFAULT_CLIP_FRAMES = 16
_MAX_REPLY_BYTES = 2**26  # of the flow of one clip: 64 MiB
_MAX_FRAME_BYTES = 2**27  # of the frames of one clip, which are held until it is answered: 128 MiB
_BYTES_PER_PIXEL = 8  # of a flow: two float32


@dataclass(frozen=True)
class Shot:
    """A frame with its pixels: see `Frame`."""

    index: int
    timestamp: float
    image: Image  # (H, W, 3) RGB
    damage: str | None = None


@dataclass(frozen=True)
class Clip:
    """Frames of one request.

    Attributes:
        first: which of the selected frames its first is, from 0.
        shots: the frames, at least one; the last is the first of the next clip.
        is_last: no clip follows, so its last frame is the last of all.
        error: why the source ends here, when it should not.
    """

    first: int
    shots: list[Shot]
    is_last: bool
    error: VideoError | None = None

    @property
    def images(self) -> list[Image]:
        """What is sent. A frame that is alone is sent twice, since flow needs a pair."""
        images = [shot.image for shot in self.shots]
        return images if len(images) > 1 else images * 2

    @property
    def own(self) -> list[Shot]:
        """The frames that this clip answers for: all but the one the next clip begins with."""
        return self.shots if self.is_last else self.shots[:-1]


@dataclass(frozen=True)
class ClipLimits:
    """What a server takes in one /v1/analyze request."""

    frames: int
    pixels: int
    body_bytes: int
    max_side: int  # px, at which flow is computed unless a request says otherwise
    compute_pixels: int  # of a frame whose flow is computed
    smallest_side: int = 128  # px, below which the model is not right, so that frames are computed larger

    def computed_size(self, shape: tuple[int, ...], max_side: int | None) -> tuple[int, int]:
        """Height and width at which frames (H, W, ...) are computed, and sent."""
        return computed_size(shape, max_side or self.max_side, self.compute_pixels, self.smallest_side)


def clip_length(
    wanted: int, shape: tuple[int, ...], directions: int, max_side: int | None, limits: ClipLimits
) -> int:
    """Frames of a clip of (H, W, ...) frames: as many as wanted, as the server takes, and as memory bears."""
    pixels = math.prod(limits.computed_size(shape, max_side))
    by_reply = 1 + _MAX_REPLY_BYTES // (pixels * _BYTES_PER_PIXEL * directions)
    by_frames = _MAX_FRAME_BYTES // (shape[0] * shape[1] * 3)
    return max(2, min(wanted, limits.frames, limits.pixels // pixels, by_reply, by_frames))


def check_clip_frames(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 2:
        raise InputError(f"clip_frames: expected a whole number of 2 or more, got {value!r}")
    return value


def load_shots(source: Source, selection: Selection, skip: int = 0) -> Iterator[Shot]:
    """The selected frames but the first `skip`, all of one size. Raises VideoError where that ends early."""
    size = None
    for frame in islice(selection.of(source), skip, None):
        shot = Shot(frame.index, frame.timestamp, frame.load(), frame.damage)
        size = size or shot.image.shape
        if shot.image.shape != size:
            raise VideoError(_describe_change(source, frame, size, shot.image), frames=frame.index)
        yield shot


def cut_clips(shots: Iterator[Shot], length: int, first: int = 0) -> Iterator[Clip]:
    """Clips of `length` frames, the last shorter. A VideoError of `shots` comes with the last clip.

    Without any frame, a VideoError is raised.
    """
    held: list[Shot] = []
    error = None
    while True:
        try:
            shot = next(shots, None)
        except VideoError as raised:
            error, shot = raised, None
        if shot is None:
            break
        if len(held) == length:
            yield Clip(first, held, is_last=False)
            first, held = first + length - 1, [held[-1]]
        held.append(shot)
    if not held:
        raise error or VideoError("there is no frame in this range", frames=0)
    yield Clip(first, held, is_last=True, error=error)


def _describe_change(source: Source, frame: Frame, size: tuple[int, ...], image: Image) -> str:
    height, width = image.shape[:2]
    later = round_up(frame.timestamp)
    return (
        f"{source.name}: frame {frame.index} ({frame.timestamp:.3f} s) is {width}x{height}, "
        f"those before are {size[1]}x{size[0]}; start={later:.3f} goes on with it"
    )
