"""How far a video is: a bar on a terminal, a line every ten seconds elsewhere."""

import sys
import time
from typing import Any, TextIO

from mcjepa_client._errors import MissingExtraError
from mcjepa_client._extras import require

_PAUSE = 10.0  # seconds between two lines


class ProgressBar:
    """Shows what `Client.process` reports. `close` it in the end."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self._name = name
        self._stream = stream
        self._stage = ""
        self._bar: Any = None

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        if stage != self._stage:
            self.close()
            self._stage = stage
            self._bar = _new_bar(f"{self._name}: {stage}", done, total, self._stream)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._stage, self._bar = "", None


def _new_bar(label: str, done: int, total: int | None, stream: TextIO) -> Any:
    if not stream.isatty():
        return Lines(label, done, total, stream)
    try:
        tqdm = require("tqdm", "video").tqdm
    except MissingExtraError:
        return Lines(label, done, total, stream)
    return tqdm(desc=label, initial=done, total=total, unit=" frames", file=stream, dynamic_ncols=True)


class Lines:
    """What of tqdm is used here, as plain lines for logs and pipes."""

    def __init__(self, label: str, done: int, total: int | None, stream: TextIO = sys.stderr) -> None:
        self.n = done
        self._label, self._total, self._stream = label, total, stream
        self._first, self._began = done, time.monotonic()
        self._said, self._told = self._began, -1  # when, and of how many frames
        if done:
            self._say(f"goes on after {done} frames")

    def update(self, more: int) -> None:
        self.n += more
        now = time.monotonic()
        if now - self._said >= _PAUSE:
            self._said, self._told = now, self.n
            self._say(self._describe(now))

    def close(self) -> None:
        if self.n != self._told:
            self._say(self._describe(time.monotonic()))

    def _describe(self, now: float) -> str:
        rate = (self.n - self._first) / max(now - self._began, 1e-6)
        of = f" of {self._total}" if self._total else ""
        left = max(0, (self._total or 0) - self.n) / rate if rate else 0
        rest = f", {_duration(left)} left" if left else ""
        return f"{self.n}{of} frames, {rate:.1f} frames/s{rest}"

    def _say(self, text: str) -> None:
        self._stream.write(f"{self._label}: {text}\n")
        self._stream.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
