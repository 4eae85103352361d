"""The bytes of all request bodies that are held at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from mcjepa_server.errors import CLOSE, Overloaded

_SMALL_BODY = 2**20  # bytes
_PATIENT_S = 1.0  # for which a body may come slowly, or not at all, before it has to make room
SLOW = 2**16  # bytes a second


@dataclass(eq=False)
class Upload:
    """A body that arrives."""

    state: dict[str, Any]
    timeout: asyncio.Timeout
    since: float
    last: float  # bytes that came
    made_room: bool = False

    def is_slow(self, now: float) -> bool:
        return now - self.last > _PATIENT_S or (now - self.since > _PATIENT_S and self.rate(now) < SLOW)

    def rate(self, now: float) -> float:
        """Bytes a second so far, of those held."""
        held: int = self.state.get("buffered_bytes", 0)
        return held / max(now - self.since, _PATIENT_S)


class ByteBudget:
    """Bytes of all bodies that are held at once, so that many uploads cannot fill the memory.

    An eighth is kept for small bodies, and where there is no room the body that comes slowest makes room: not
    even many uploads that stall shut out the others.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.arriving: set[Upload] = set()

    def take(self, size: int, state: dict[str, Any]) -> None:
        """Counts bytes for the request whose state this is. Raises Overloaded when there is no room."""
        held = state.get("buffered_bytes", 0) + size
        limit = self.limit if held <= _SMALL_BODY else self.limit - self.limit // 8
        while self.used + size > limit and self._make_room(state):
            pass
        if self.used + size > limit:
            which = "" if limit == self.limit else f", of which {limit} for bodies over {_SMALL_BODY} bytes"
            raise Overloaded(
                f"request bodies hold {self.used} bytes; the limit is {self.limit} (max_buffered_bytes)"
                f"{which}",
                headers={"Retry-After": "1", **CLOSE},
            )
        self.used += size
        state["buffered_bytes"] = held

    def release(self, state: dict[str, Any]) -> None:
        """At the end of a request, whatever became of it."""
        self.used -= state.pop("buffered_bytes", 0)

    def _make_room(self, state: dict[str, Any]) -> bool:
        """End the slowest of the other uploads, if one is slow."""
        if not self.arriving:
            return False
        now = asyncio.get_running_loop().time()
        slow = [
            upload
            for upload in self.arriving
            if upload.state is not state
            and not upload.timeout.expired()
            and upload.state.get("buffered_bytes", 0)
            and upload.is_slow(now)
        ]
        if not slow:
            return False
        slowest = min(slow, key=lambda upload: upload.rate(now))
        slowest.made_room = True
        slowest.timeout.reschedule(now)
        self.release(slowest.state)
        return True
