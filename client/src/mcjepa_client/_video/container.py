"""Video files and network streams, decoded by PyAV: exact times, rotation, and no silence about damage.

Decoders hide damage: they repeat what they have and go on. So a stream counts as damaged from the first
frame on that the demuxer or the decoder marks as corrupt, and as truncated when it ends before its header
says. Frames up to there are delivered, then VideoError is raised.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mcjepa_client._errors import VideoError
from mcjepa_client._extras import require
from mcjepa_client._video.frames import Frame, SourceInfo
from mcjepa_client._video.lengths import missing_bytes
from mcjepa_client._video.rgb import from_frame

_OPEN_TIMEOUT, _READ_TIMEOUT = 10.0, 30.0  # seconds, of network streams
_COUNTED = {"mov", "mp4"}  # formats whose header has the exact number of frames
_TIMED = {"matroska", "webm"}  # formats whose header has the exact duration
_ROUNDING = 0.002  # seconds


@dataclass(frozen=True)
class ContainerSource:
    """The first video stream of a file or of a network address that FFmpeg can read."""

    address: str

    @property
    def name(self) -> str:
        return self.address

    def info(self) -> SourceInfo:
        with _open(self.address) as container:
            stream = container.streams.video[0]
            duration = _duration(container, stream)
            frames = stream.frames or None
            if frames is None and duration and stream.average_rate:
                frames = max(1, round(duration * float(stream.average_rate)))
            context = stream.codec_context
            return SourceInfo(frames, duration, context.width, context.height)

    def frames(self) -> Iterator[Frame]:
        with _open(self.address) as container:
            reading = _Reading(self.address, container)
            for index, frame in enumerate(reading.decode()):
                yield Frame(index, reading.time_of(frame), partial(from_frame, frame))


def _open(address: str) -> Any:
    """An open container that has video. Raises VideoError otherwise."""
    av = require("av", "video")
    try:
        container = av.open(address, timeout=(_OPEN_TIMEOUT, _READ_TIMEOUT))
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(f"{address}: cannot be read as a video: {_reason(error)}") from error
    if not container.streams.video:
        container.close()
        raise VideoError(f"{address}: there is no video in it")
    container.streams.video[0].thread_type = "SLICE"  # frame threads make damage depend on their timing
    return container


@dataclass
class _Reading:
    """One pass over a stream."""

    address: str
    container: Any
    packets: int = 0
    reached: float = 0.0  # seconds: the end of the last packet of any stream
    interval: float = 0.0  # seconds: the longest between two frames
    decoded: int = 0
    _last: float = field(default=-1.0)
    _origin: float | None = None

    @property
    def stream(self) -> Any:
        return self.container.streams.video[0]

    def decode(self) -> Iterator[Any]:
        """The frames that can be trusted, in order of presentation."""
        av = require("av", "video")
        try:
            for packet in self._demux():
                for frame in self.stream.codec_context.decode(packet):
                    if frame.is_corrupt:
                        raise self._damaged("it is marked as corrupt")
                    self.decoded += 1
                    yield frame
        except av.FFmpegError as error:
            yield from self._rest()
            raise self._damaged(_reason(error)) from error
        self._check_complete()

    def _demux(self) -> Iterator[Any]:
        """Packets of the video stream, then None, which asks the decoder for what it holds back."""
        for packet in self.container.demux():
            if packet.dts is None and not packet.size:
                continue  # the end of a stream
            self._note(packet)
            if packet.stream_index != self.stream.index:
                continue
            if packet.is_corrupt:
                yield None
                raise self._damaged("its data is cut off")
            self.packets += 1
            yield packet
        yield None

    def _rest(self) -> Iterator[Any]:
        """What the decoder holds of before an error."""
        av = require("av", "video")
        try:
            for frame in self.stream.codec_context.decode(None):
                if frame.is_corrupt:
                    return
                self.decoded += 1
                yield frame
        except (av.FFmpegError, EOFError):
            return

    def _note(self, packet: Any) -> None:
        if packet.pts is not None and packet.time_base is not None:
            self.reached = max(self.reached, float((packet.pts + (packet.duration or 0)) * packet.time_base))

    def time_of(self, frame: Any) -> float:
        """Seconds since the first frame. Frames without a time, or out of order, follow at the usual rate."""
        time = float(frame.pts * self.stream.time_base) if frame.pts is not None else None
        if self._origin is None:
            self._origin = time or 0.0
        rate = float(self.stream.average_rate or self.stream.base_rate or 25)
        seconds = time - self._origin if time is not None else -1.0
        if seconds <= self._last:
            seconds = self._last + 1 / rate if self._last >= 0 else 0.0
        self.interval = max(self.interval, seconds - max(self._last, 0.0))
        self._last = seconds
        return seconds

    def _damaged(self, reason: str) -> VideoError:
        return VideoError(
            f"{self.address}: damaged after {self.decoded} frames ({self._last_time():.3f} s): {reason}",
            frames=self.decoded,
        )

    def _last_time(self) -> float:
        return max(self._last, 0.0)

    def _check_complete(self) -> None:
        """Raises VideoError when the header promises more than there was."""
        if os.path.isfile(self.address) and (missing := missing_bytes(self.address)):
            self._truncated(f"the last {missing} bytes of the file are missing")
        names = set(self.container.format.name.split(","))
        if not self.decoded:
            raise VideoError(f"{self.address}: no frame can be decoded", frames=0)
        if names & _COUNTED and self.packets < self.stream.frames:
            self._truncated(f"{self.packets} of {self.stream.frames} frames are there")
        expected = _duration(self.container, self.stream)
        if names & _TIMED and expected and self.reached + self.interval + _ROUNDING < expected:
            self._truncated(f"it ends at {self.reached:.3f} s of {expected:.3f} s")

    def _truncated(self, reason: str) -> None:
        raise VideoError(
            f"{self.address}: truncated after {self.decoded} frames: {reason}", frames=self.decoded
        )


def _duration(container: Any, stream: Any) -> float | None:
    """Seconds by the header: of the stream when it says, else of the whole."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else None


def _reason(error: Exception) -> str:
    text: str = getattr(error, "strerror", None) or str(error)
    return text or type(error).__name__
