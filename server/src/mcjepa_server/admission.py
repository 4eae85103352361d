"""Which requests may come in, and whose turn the engine is. Refuse rather than queue without end.

The queue is bounded three ways: in requests, in pixels to compute, and in the time a request would wait,
estimated from what recent inferences took. All three refuse at once; nobody waits to be refused, unless the
estimate was too low.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from mcjepa_server.config import Settings
from mcjepa_server.deadline import seconds_left
from mcjepa_server.errors import DeadlineExceeded, Overloaded, RateLimited
from mcjepa_server.timing import Timings

_WEIGHT = 0.2  # of the newest inference in the running mean
_LONGEST_RETRY_AFTER = 60  # s


@dataclass(frozen=True)
class Work:
    """What an inference costs: padded pixels of all its frames or images, for one of the models."""

    model: str
    items: int
    pixels: int


@dataclass
class Place:
    """A request inside. ``seconds`` is what its inference is expected to take."""

    pixels: int = 0
    seconds: float = 0.0
    served: bool = False  # has had the engine before


class Admission:
    """Counts requests from their complete body to their reply, and hands out the slots of the engine."""

    def __init__(self, settings: Settings) -> None:
        self.capacity = settings.max_concurrency + settings.max_queue
        self.inside = 0
        self.waiting = 0
        self.pixels = 0
        self._settings = settings
        self._seconds = 0.0
        self._by_key: Counter[str] = Counter()
        self._seconds_per_pixel: dict[str, float] = {}
        self._slots = asyncio.Semaphore(settings.max_concurrency)

    @property
    def expected_wait(self) -> float:
        """Seconds until a request that comes in now would have the engine."""
        return self._seconds / self._settings.max_concurrency

    def check(self, key: str | None = None) -> None:
        """Raises Overloaded or RateLimited; called before the body is read, too, to refuse cheaply."""
        if self.inside >= self.capacity:
            raise self._overloaded(
                f"{self.inside} requests are in flight; the limit is {self.capacity} (max_in_flight)"
            )
        if self.expected_wait > self._settings.max_queue_wait_s:
            raise self._overloaded(self._too_long(f"would wait about {self.expected_wait:.1f} s"))
        limit = self._settings.max_concurrency_per_key
        if key is not None and self._by_key[key] >= limit:
            raise RateLimited(
                f"{limit} requests of this API key are in flight; the limit is {limit} "
                "(max_concurrency_per_key)",
                headers={"Retry-After": "1"},
            )

    @contextmanager
    def enter(self, key: str | None = None) -> Iterator[Place]:
        """Holds a place among the requests inside. Raises as :meth:`check`."""
        self.check(key)
        place = Place()
        self._count(key, 1)
        try:
            yield place
        finally:
            self._count(key, -1)
            self.pixels -= place.pixels
            self._seconds = max(0.0, self._seconds - place.seconds)

    def charge(self, place: Place, work: Work) -> None:
        """Puts the cost of a request on its place, once it is known. Raises Overloaded if it is too much.

        An idle server takes whatever the other limits let through.
        """
        limit = self._settings.max_queue_pixels
        if self.pixels and self.pixels + work.pixels > limit:
            raise self._overloaded(
                f"the request needs {work.pixels} pixels computed besides the {self.pixels} of those in "
                f"flight; the limit is {limit} (max_queue_pixels)"
            )
        if self.expected_wait > self._settings.max_queue_wait_s:
            raise self._overloaded(self._too_long(f"would wait about {self.expected_wait:.1f} s"))
        place.pixels = work.pixels
        place.seconds = work.pixels * self._seconds_per_pixel.get(work.model, 0.0)
        self.pixels += place.pixels
        self._seconds += place.seconds

    def learn(self, work: Work, seconds: float) -> None:
        """Takes note of how long an inference took."""
        rate = seconds / work.pixels
        known = self._seconds_per_pixel.get(work.model, rate)
        self._seconds_per_pixel[work.model] = known + _WEIGHT * (rate - known)

    @asynccontextmanager
    async def slot(self, timings: Timings, place: Place | None) -> AsyncIterator[None]:
        """Waits for a slot of the engine, first come first served; without a place, however long.

        Raises Overloaded after ``max_queue_wait_s`` of the first wait, and DeadlineExceeded where the
        deadline has passed meanwhile: the engine never works for a caller who has given up.
        """
        await self._acquire(timings, place)
        try:
            if place is not None:
                place.served = True
                if seconds_left(math.inf) <= 0:
                    raise DeadlineExceeded("the deadline passed in the queue")
            yield
        finally:
            self._slots.release()

    async def _acquire(self, timings: Timings, place: Place | None) -> None:
        first = place is not None and not place.served
        limit = self._settings.max_queue_wait_s if first else None
        self.waiting += 1
        try:
            with timings.stage("queue"):
                async with asyncio.timeout(limit) as patience:
                    await self._slots.acquire()
        except TimeoutError:
            if not patience.expired():
                raise
            raise self._overloaded(self._too_long("has waited as long as it may")) from None
        finally:
            self.waiting -= 1

    def _count(self, key: str | None, change: int) -> None:
        self.inside += change
        if key is None:
            return
        self._by_key[key] += change
        if not self._by_key[key]:
            del self._by_key[key]

    def _too_long(self, what: str) -> str:
        limit = self._settings.max_queue_wait_s
        return f"the request {what} for the engine; the limit is {limit:g} s (max_queue_wait_s)"

    def _overloaded(self, message: str) -> Overloaded:
        seconds = min(max(1, math.ceil(self.expected_wait)), _LONGEST_RETRY_AFTER)
        return Overloaded(message, headers={"Retry-After": str(seconds)})
