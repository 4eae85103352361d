"""Requests a minute of each API key."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from mcjepa_server.errors import RateLimited


class RateLimit:
    """A token bucket for each key: a minute's worth may come at once, and comes back evenly.

    By the monotonic clock: a step of the wall clock neither locks anybody out nor lets anybody in.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, and when they were counted

    def take(self, key: str) -> None:
        """Counts a request. Raises RateLimited with the seconds until the next one may come."""
        now = self._clock()
        tokens, then = self._buckets.get(key, (float(self.per_minute), now))
        tokens = min(self.per_minute, tokens + (now - then) * self.per_minute / 60)
        allowed = tokens >= 1
        self._buckets[key] = (tokens - allowed, now)
        if not allowed:
            wait = math.ceil((1 - tokens) * 60 / self.per_minute)
            raise RateLimited(
                f"this API key may send {self.per_minute} requests a minute (rate_limit_per_minute)",
                headers={"Retry-After": str(max(1, wait))},
            )
