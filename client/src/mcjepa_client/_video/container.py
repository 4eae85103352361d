"""Video files and network streams, decoded by PyAV: exact times, upright, and no silence about damage.

Decoders hide damage: they repeat what they have and go on. So a stream counts as damaged from the first
frame on that the demuxer or the decoder marks as corrupt up to the next key frame, and as truncated when it
ends before its header says. Damage that ends before the first frame that is wanted is passed over and noted;
at other damage VideoError is raised after the frames before it, and names the time of that key frame.
"""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mcjepa_client._errors import VideoError
from mcjepa_client._extras import require
from mcjepa_client._video.frames import Frame, Image, SourceInfo, round_up
from mcjepa_client._video.lengths import lost_fragments, missing_bytes
from mcjepa_client._video.names import printable
from mcjepa_client._video.rgb import from_frame
from mcjepa_client._video.structure import Walk, walk

_OPEN_TIMEOUT, _READ_TIMEOUT = 10.0, 30.0  # seconds, of network streams
_COUNTED = {"mov", "mp4"}  # formats whose header has the exact number of frames
_TIMED = {"matroska", "webm"}  # formats whose header has the exact duration
_INDEXED = {"avi"}  # formats without time stamps, whose index tells the time of what follows a gap
_LATE = {"ogg"}  # formats whose first packet behind a gap gets the time of what is lost
_CHUNK_HEADER = 8  # bytes of AVI before the data of a packet
_DAMAGED, _TRUNCATED = "damaged", "truncated"
_ROUNDING = 0.002  # seconds
_DEFAULT_BONUS = 5_000_000  # px that ffmpeg adds to a stream that is marked as the default
_MAX_ERRORS = 1000  # of the demuxer without a packet between them
_JUMP = 2  # packets up to behind a jump of counters, from the one that is marked on: parsers mark one early
_HELD = 64  # packets between demuxer and decoder; more than any decoder holds back


@dataclass(frozen=True)
class ContainerSource:
    """The video stream that ffmpeg would take of a file or of a network address."""

    address: str

    @property
    def name(self) -> str:
        return printable(self.address)

    def info(self) -> SourceInfo:
        with _open(self.address, self.name) as container:
            stream = best_stream(container)
            duration = _duration(container, stream)
            frames = stream.frames or None
            if frames is None and duration and stream.average_rate:
                frames = max(1, round(duration * float(stream.average_rate)))
            width, height = self._size(stream)
            return SourceInfo(frames, duration, width, height)

    def _size(self, stream: Any) -> tuple[int, int]:
        """Width and height of the first frame, upright; as the header has them when it cannot be decoded."""
        try:
            height, width = next(self.frames()).load().shape[:2]
        except (VideoError, StopIteration):
            return stream.codec_context.width, stream.codec_context.height
        return width, height

    def frames(self, start: float = 0.0) -> Iterator[Frame]:
        with _open(self.address, self.name) as container:
            yield from _Reading(self.address, container, start).frames()


def _open(address: str, name: str) -> Any:
    """An open container that has video. Raises VideoError otherwise.

    A file is named as one: FFmpeg would take "cam1:front.mp4" for an address.
    """
    av = require("av", "video")
    target = f"file:{address}" if os.path.exists(address) else address
    try:
        container = av.open(target, timeout=(_OPEN_TIMEOUT, _READ_TIMEOUT))
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(f"{name}: cannot be read as a video: {_reason(error)}") from error
    stream = best_stream(container)
    if stream is None:
        container.close()
        raise VideoError(f"{name}: there is no video in it")
    stream.thread_type = "SLICE"  # frame threads make damage depend on their timing
    stream.codec_context.copy_opaque = True  # frames know the number of their packet
    return container


def best_stream(container: Any) -> Any:
    """The video stream that ffmpeg takes: no cover picture, the default or the largest or the first of them.

    None where there is none. The rule is `map_auto_video` of FFmpeg's fftools/ffmpeg_mux_init.c.
    """
    flags = require("av.stream", "video").Disposition
    streams = [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None and not stream.disposition & flags.attached_pic
    ]

    def score(stream: Any) -> int:
        pixels: int = stream.codec_context.width * stream.codec_context.height
        return pixels + (_DEFAULT_BONUS if stream.disposition & flags.default else 0)

    return max(streams, key=score, default=None)


@dataclass
class _Reading:
    """One pass over a stream.

    Attributes:
        start: seconds; damage before it does not matter.
        index: number of the next frame.
        reached: seconds; the end of the last packet of any stream.
        interval: seconds; the longest between two frames.
        damage: why frames cannot be trusted at present, if they cannot.
        passed: what was met and passed over.
    """

    address: str
    container: Any
    start: float = 0.0
    packets: int = 0
    _dts: int | None = None  # of the last one
    reached: float = 0.0
    interval: float = 0.0
    index: int = 0
    damage: str | None = None
    _kind: str = _DAMAGED
    passed: str | None = None
    _last: float = -1.0
    _origin: int | None = None  # time stamp of the first frame
    #: Number and time stamp of packets by their place in the file, where there is an index.
    _index: dict[int, tuple[int, int]] = field(default_factory=dict)
    #: Number of the frame and its time after which the damage came.
    _lost: tuple[int, float] = (0, 0.0)
    #: Time stamps of packets that the decoder may hold; then those it held when the damage came.
    _fed: deque[int | None] = field(default_factory=partial(deque, maxlen=_HELD))
    _before: frozenset[int | None] = frozenset()
    #: Parts of the file from the last packet on.
    _walk: Walk = field(default_factory=lambda: iter(()))
    _walked: int = -1
    #: Number of the last packet that cannot be trusted, nor what the decoder held with it.
    _doubted: int = -1
    #: Time stamps of the first packets.
    _first: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stream = best_stream(self.container)
        self.formats = set(self.container.format.name.split(","))
        self.is_file = os.path.isfile(self.address)
        if self.is_file:
            self._walk = walk(self.address, self.formats)
        if self.formats & _INDEXED:
            entries = [entry for entry in self.stream.index_entries if entry.size]
            self._index = {entry.pos: (number, entry.timestamp) for number, entry in enumerate(entries)}

    def frames(self) -> Iterator[Frame]:
        """The frames that can be trusted, in order of presentation."""
        for frame in self._decode():
            if frame.is_corrupt:
                self._note_damage("it is marked as corrupt", frame.pts, _number(frame))
            if self._origin is None:
                first = frame.pts or 0  # unless frames before it are lost
                self._origin = first if self.damage is None else min(self._first, default=first)
            if self.damage is not None and not self._is_trusted(frame):
                if frame.pts is None:
                    self._time_of(frame)
                self.index += 1
                continue
            if self.passed and frame.key_frame:
                self.index = max(self.index, _number(frame))
            time = self._time_of(frame)
            yield Frame(self.index, time, partial(self._load, frame), self.passed)
            self.index += 1
            if self.damage is not None:
                self._lost = self.index, time
        if self.damage is not None:
            raise self._damaged()
        self._check_complete()

    def _load(self, frame: Any) -> Image:
        try:
            return from_frame(frame)
        except ValueError as error:
            raise VideoError(f"{self.name}: {error}") from error

    def _is_trusted(self, frame: Any) -> bool:
        """Return whether a frame that comes after damage can be used: from before it, or from a key frame on.

        Raises VideoError if that is later than `start`.
        """
        if not self.is_file:
            raise self._damaged()
        if frame.pts in self._before and not frame.is_corrupt:
            return True
        self._before = frozenset()
        if frame.is_corrupt or not frame.key_frame or self._kind == _TRUNCATED:
            return False
        if _number(frame) <= self._doubted:
            return False
        self._pass_damage(frame)
        return True

    def _decode(self) -> Iterator[Any]:
        """All frames, good or not; what is wrong on the way is in `damage`."""
        av = require("av", "video")
        for packet in self._demux():
            try:
                yield from self.stream.codec_context.decode(packet)
                if packet is not None:
                    self._fed.append(packet.pts)
            except (av.FFmpegError, EOFError) as error:
                number = self.packets if packet is None else _number(packet)
                self._note_damage(_reason(error), packet and packet.dts, number)

    def _demux(self) -> Iterator[Any]:
        """Packets of the video stream, then None, which asks the decoder for what it holds back.

        A packet is marked as corrupt when the counters jump in the one behind it. If a key frame follows
        that one, and all begins anew, recordings were joined there, and whether it is whole is for the
        decoder to say.
        The last packet of a file that is cut off may be cut off too.
        """
        held: deque[Any] = deque()
        for packet in self._packets():
            if packet.is_keyframe and not (held and held[-1].is_corrupt):
                yield from held
                held.clear()
            held.append(packet)
            while len(held) > 1 and not (held[0].is_corrupt and len(held) <= _JUMP):
                yield from self._check_cut(held.popleft())
        while held:
            packet = held.popleft()
            missing = missing_bytes(self.address) if self.is_file and not held else 0
            if missing:
                reason = f"the last {missing} bytes of the file are missing"
                self._note_damage(reason, packet.dts, _number(packet), _TRUNCATED)
            else:
                yield from self._check_cut(packet)
        yield None

    def _check_cut(self, packet: Any) -> Iterator[Any]:
        if packet.is_corrupt:
            self._note_damage("its data is cut off", packet.dts, _number(packet) + _JUMP)
        else:
            yield packet

    def _packets(self) -> Iterator[Any]:
        """Packets of the video stream. A demuxer that stumbles over bad data is asked to go on."""
        av = require("av", "video")
        errors = 0
        packets = self.container.demux()
        while errors < _MAX_ERRORS:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, EOFError) as error:
                self._note_damage(_reason(error), self._dts, self.packets - 1)
                if not isinstance(error, av.InvalidDataError):
                    return
                errors, packets = errors + 1, self.container.demux()
                continue
            except IndexError:  # of PyAV, in the end, when the demuxer has found a stream on its way
                return
            if packet is None:
                return
            if packet.dts is None and not packet.size:
                continue  # the end of a stream
            errors = 0
            self._note(packet)
            if packet.stream_index == self.stream.index:
                self._count(packet)
                self._dts = packet.dts
                yield packet

    def _count(self, packet: Any) -> None:
        """Count a packet, and mend its time, where the index knows better: others may be lost before it."""
        number, dts = self._index.get((packet.pos or 0) - _CHUNK_HEADER, (self.packets, packet.dts))
        if number > self.packets:
            self._note_damage(f"{number - self.packets} frames are missing", dts, number - 1)
        if packet.dts is not None and packet.pts is not None and packet.dts != dts:
            packet.pts, packet.dts = packet.pts + dts - packet.dts, dts
        if self._passed_break(packet.pos or 0):
            last = number if self.formats & _LATE else number - 1
            self._note_damage("data between its frames cannot be read", packet.dts, last)
        packet.opaque = number
        if packet.pts is not None and len(self._first) < _HELD:
            self._first.append(packet.pts)
        self.packets = max(self.packets, number) + 1

    def _passed_break(self, position: int) -> bool:
        """Return whether the structure of the file is broken somewhere from the last packet to this place."""
        broken = False
        while self._walked < position and (part := next(self._walk, None)) is not None:
            self._walked = part[0]
            broken |= part[1]
        return broken

    def _note(self, packet: Any) -> None:
        if packet.pts is not None and packet.time_base is not None:
            self.reached = max(self.reached, float((packet.pts + (packet.duration or 0)) * packet.time_base))

    def _seconds(self, frame: Any) -> float:
        """Seconds since the first frame. Frames without a time, or out of order, follow at the usual rate."""
        if frame.pts is not None and self._origin is not None:
            seconds = float((frame.pts - self._origin) * self.stream.time_base)
            if seconds > self._last:
                return seconds
        rate = float(self.stream.average_rate or self.stream.base_rate or 25)
        return self._last + 1 / rate if self._last >= 0 else 0.0

    def _time_of(self, frame: Any) -> float:
        seconds = self._seconds(frame)
        self.interval = max(self.interval, seconds - max(self._last, 0.0))
        self._last = seconds
        return seconds

    def _note_damage(self, reason: str, dts: int | None, number: int, kind: str = _DAMAGED) -> None:
        """From here on, at a packet with this time of decoding and this number, nothing can be trusted.

        Frames that the decoder holds already can be, up to that time: later ones may have others before them
        that are lost. A key frame among those does not end the damage: what follows it is built on the loss.
        """
        self._doubted = max(self._doubted, number)
        if self.damage is None:
            self.damage, self._kind = reason, kind
            self._before = frozenset(
                pts for pts in self._fed if pts is not None and (dts is None or pts < dts)
            )
            self._lost = self.index, max(self._last, 0.0)

    def _describe_damage(self) -> str:
        return f"{self._kind} after {self._lost[0]} frames ({self._lost[1]:.3f} s): {self.damage}"

    def _damaged(self, hint: str = "") -> VideoError:
        return VideoError(f"{self.name}: {self._describe_damage()}{hint}", frames=self._lost[0])

    def _pass_damage(self, key_frame: Any) -> None:
        """Trust the frames again from this one on. Raises VideoError if it is later than `start`."""
        time = self._seconds(key_frame)
        if time > self.start:
            raise self._damaged(f"; start={round_up(time):.3f} goes on behind it")
        self.passed = "; ".join(filter(None, [self.passed, self._describe_damage()]))
        self.damage = None
        self.index = max(self.index, self._index_of(key_frame, time))

    def _index_of(self, key_frame: Any, time: float) -> int:
        """Number of a frame behind damage, in which frames and even packets were lost."""
        before = _number(key_frame)
        frames, seconds = self._lost
        if self.formats & _COUNTED or frames < 2 or seconds <= 0:
            return before  # the header lists the packets, so that none is lost
        return max(before, round(time * (frames - 1) / seconds))

    @property
    def name(self) -> str:
        return printable(self.address)

    def _check_complete(self) -> None:
        """Raise VideoError when the file promises more than there was."""
        if self.is_file and lost_fragments(self.address):
            reason = "what follows has no box around it"
            raise VideoError(f"{self.name}: damaged after {self.index} frames: {reason}", frames=self.index)
        if not self.index:
            raise VideoError(f"{self.name}: no frame can be decoded", frames=0)
        if self.formats & _COUNTED and self.packets < self.stream.frames:
            self._truncated(f"{self.packets} of {self.stream.frames} frames are there")
        if self.packets < len(self._index):
            self._truncated(f"{self.packets} of {len(self._index)} frames are there")
        expected = _duration(self.container, self.stream)
        if self.formats & _TIMED and expected and self.reached + self.interval + _ROUNDING < expected:
            self._truncated(f"it ends at {self.reached:.3f} s of {expected:.3f} s")

    def _truncated(self, reason: str) -> None:
        raise VideoError(f"{self.name}: truncated after {self.index} frames: {reason}", frames=self.index)


def _number(packet_or_frame: Any) -> int:
    """How many packets of the stream came before it."""
    number: int | None = packet_or_frame.opaque  # None for a picture that the decoder made up
    return -1 if number is None else number


def _duration(container: Any, stream: Any) -> float | None:
    """Seconds by the header: of the stream when it says, else of the whole."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else None


def _reason(error: Exception) -> str:
    text: str = getattr(error, "strerror", None) or str(error)
    return text or type(error).__name__
