"""Which requests may come in, and whose turn the engine is. Refuse rather than queue without end.

The queue is bounded three ways: in requests, in pixels to compute, and in the time a request would wait,
estimated from what recent inferences took. All three refuse at once; nobody waits to be refused, unless the
estimate was too low. What a request costs is known when its images have been decoded; until then it counts as
the average of the others.

The flow of a request and the reply made of it may be thousands of times its files. What is large of them has
a budget of bytes, from before the flow is computed until the reply is read; each waits for room in turn. What
is small, at most the share of one reservation, never waits.

Of those that wait for the engine a few are decoded ahead; the others hold files, a fifth of the pixels' size.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from mcjepa_server.config import Settings
from mcjepa_server.errors import DeadlineExceeded, InvalidInput, Overloaded, RateLimited
from mcjepa_server.observability.timing import Timings, seconds_left

_WEIGHT = 0.2  # of the newest inference in the running mean
_LONGEST_RETRY_AFTER = 60  # s


@dataclass(frozen=True)
class Work:
    """What an inference costs: padded pixels of all its frames or images, for one of the models."""

    model: str
    items: int
    pixels: int


@dataclass
class Reservation:
    """A request inside. ``seconds`` is what its next turn at the engine is expected to take."""

    pixels: int = 0  # not computed yet
    seconds: float = 0.0
    turn: int = 0  # pixels of its longest turn at the engine
    reply_bytes: int = 0  # of the budget
    is_ahead: bool = False  # decoded, or about to be, and has not had the engine
    served: bool = False  # has had the engine before


class Admission:
    """Counts requests from complete body to reply, and hands out the slots of the engine.

    Those of an API key count from before their body is read.
    """

    def __init__(self, settings: Settings) -> None:
        self.capacity = settings.max_concurrency + settings.max_queue
        self.inside = 0
        self.waiting = 0
        self.pixels = 0
        self.reply_bytes = 0
        self.reply_share = settings.max_reply_bytes // self.capacity  # of each place
        self._settings = settings
        self._for_room: deque[tuple[asyncio.Future[None], Reservation, int]] = deque()
        self._seconds = 0.0
        self._charged = 0  # requests
        self._undecoded = 0
        self._by_key: Counter[str] = Counter()
        self._seconds_per_pixel: dict[str, float] = {}
        self._slots = asyncio.Semaphore(settings.max_concurrency)
        # as many as leave neither the engine nor a decoder idle
        self._ahead = asyncio.Semaphore(max(settings.max_concurrency, settings.decode_processes))

    @property
    def expected_wait(self) -> float:
        """Seconds until a request that comes in now would have the engine, after one turn of each inside."""
        return self._seconds * self._crowd / self._settings.max_concurrency

    @property
    def _crowd(self) -> float:
        """All requests over those whose cost is known."""
        return 1 + self._undecoded / self._charged if self._charged else 1.0

    def check(self, key: str | None = None) -> None:
        """Raises Overloaded or RateLimited."""
        if self.inside >= self.capacity:
            raise self._overloaded(
                f"{self.inside} requests are in flight; the limit is {self.capacity} (max_in_flight)"
            )
        self._check_wait(self.expected_wait)
        limit = self._settings.max_concurrency_per_key
        if key is not None and self._by_key[key] >= limit:
            raise RateLimited(
                f"{limit} requests of this API key are in flight; the limit is {limit} "
                "(max_concurrency_per_key)",
                headers={"Retry-After": "1"},
            )

    @contextmanager
    def arrive(self, key: str | None) -> Iterator[None]:
        """Count a request of a key, from before its body is read. Raises as :meth:`check`."""
        self.check(key)
        if key is None:
            yield
            return
        self._by_key[key] += 1
        try:
            yield
        finally:
            self._by_key[key] -= 1
            if not self._by_key[key]:
                del self._by_key[key]

    @contextmanager
    def enter(self) -> Iterator[Reservation]:
        """Hold a place among the requests inside. Raises as :meth:`check`."""
        self.check()
        reservation = Reservation()
        self.inside += 1
        try:
            yield reservation
        finally:
            self.finish(reservation)
            self.shrink_reply(reservation, 0)
            self.inside -= 1

    def finish(self, reservation: Reservation) -> None:
        """Take back what a request costs: it needs the engine no more. It stays inside."""
        self._leave_ahead(reservation)
        self._charged -= reservation.pixels > 0
        self._owe(reservation, 0, 0.0)

    async def acquire_decode_slot(self, timings: Timings, reservation: Reservation) -> None:
        """Waits until few enough requests are decoded ahead of the engine, first come first served.

        Raises Overloaded as :meth:`reserve`, at once where an average request would be too much.
        """
        if self._ahead.locked() and self._charged:
            average = self.pixels / self._charged
            self._check_room(round(average), round(self.pixels * self._crowd), "about ")
        self._undecoded += 1
        try:
            await self._wait(self._ahead, timings, reservation)
        finally:
            self._undecoded -= 1
        reservation.is_ahead = True

    def reserve(self, reservation: Reservation, work: Work, turn: Work | None = None) -> None:
        """Count the cost of a request, once it is known. Raises Overloaded if it is too much.

        ``turn`` is what it does at once, if that is not all. An idle server takes whatever the other limits
        let through.
        """
        self._check_room(work.pixels, self.pixels)
        self._check_wait(self._seconds / self._settings.max_concurrency)
        reservation.turn = (turn or work).pixels
        self._charged += 1
        self._owe(reservation, work.pixels, reservation.turn * self._seconds_per_pixel.get(work.model, 0.0))

    def work_off(self, reservation: Reservation, work: Work) -> None:
        """Take back what a turn at the engine has done. The last one counts until :meth:`finish`."""
        left = max(reservation.pixels - work.pixels, min(reservation.pixels, reservation.turn))
        self._owe(reservation, left, reservation.seconds)

    async def reserve_reply(self, timings: Timings, reservation: Reservation, size: int) -> None:
        """Waits until so many bytes fit beside those of other large replies, first come first served.

        They are held until the request is over, or less after :meth:`shrink_reply`. Raises InvalidInput for a
        reply that never fits, and Overloaded after ``max_queue_wait_s`` of waiting.
        """
        limit = self._settings.max_reply_bytes
        if size > limit:
            raise InvalidInput(
                f"the flow and the reply take {size} bytes at the size of the frames; the limit is {limit} "
                "(max_reply_bytes); send fewer or smaller frames, or ask for less of both directions and "
                "occlusion"
            )
        if size <= self.reply_share:
            return
        granted = asyncio.get_running_loop().create_future()
        waiter = (granted, reservation, size)
        self._for_room.append(waiter)
        self._grant_room()
        if granted.done():
            return
        self._leave_ahead(reservation)  # those with small replies need not wait, nor for this one
        seconds = reservation.seconds
        self._owe(reservation, reservation.pixels, 0.0)
        try:
            with timings.stage("queue"):
                async with asyncio.timeout(self._patience(timings)) as patience:
                    await granted
        except TimeoutError:
            if not patience.expired():
                raise
            raise self._overloaded(
                f"the flow and the reply take {size} bytes besides the {self.reply_bytes} of other replies "
                f"that are made or not read yet; the limit is {limit} (max_reply_bytes)"
            ) from None
        finally:
            self._owe(reservation, reservation.pixels, seconds)
            if waiter in self._for_room:
                self._for_room.remove(waiter)
                self._grant_room()

    def shrink_reply(self, reservation: Reservation, size: int) -> None:
        """Give back what a reply does not need, once it is made."""
        if size < reservation.reply_bytes:
            self.reply_bytes -= reservation.reply_bytes - size
            reservation.reply_bytes = size
            self._grant_room()

    def _grant_room(self) -> None:
        while self._for_room:
            granted, reservation, size = self._for_room[0]
            if self.reply_bytes + size > self._settings.max_reply_bytes:
                return
            self._for_room.popleft()
            if not granted.done():
                self.reply_bytes += size
                reservation.reply_bytes = size
                granted.set_result(None)

    def update_cost_model(self, work: Work, seconds: float) -> None:
        """Takes note of how long an inference took."""
        rate = seconds / work.pixels
        known = self._seconds_per_pixel.get(work.model, rate)
        self._seconds_per_pixel[work.model] = known + _WEIGHT * (rate - known)

    @asynccontextmanager
    async def slot(self, timings: Timings, reservation: Reservation | None) -> AsyncIterator[None]:
        """Waits for a slot of the engine, first come first served; without a reservation, however long.

        Raises Overloaded after ``max_queue_wait_s`` of waiting before the first slot, for a turn to decode
        included, and DeadlineExceeded where the deadline has passed meanwhile: the engine never works for a
        caller who has given up.
        """
        await self._wait(self._slots, timings, reservation)
        try:
            if reservation is not None:
                self._leave_ahead(reservation)
                reservation.served = True
                if seconds_left(math.inf) <= 0:
                    raise DeadlineExceeded("the deadline passed in the queue")
            yield
        finally:
            self._slots.release()

    async def _wait(
        self, turns: asyncio.Semaphore, timings: Timings, reservation: Reservation | None
    ) -> None:
        """Without a reservation, or once it was served, however long."""
        limit = None
        if turns.locked() and reservation is not None and not reservation.served:
            limit = self._patience(timings)
        self.waiting += 1
        try:
            with timings.stage("queue"):
                async with asyncio.timeout(limit) as patience:
                    await turns.acquire()
        except TimeoutError:
            if not patience.expired():
                raise
            raise self._overloaded(self._too_long("has waited as long as it may")) from None
        finally:
            self.waiting -= 1

    def _patience(self, timings: Timings) -> float:
        """Return the seconds that a request may still wait."""
        return max(0.0, self._settings.max_queue_wait_s - timings.seconds.get("queue", 0.0))

    def _owe(self, reservation: Reservation, pixels: int, seconds: float) -> None:
        self.pixels += pixels - reservation.pixels
        self._seconds = max(0.0, self._seconds + seconds - reservation.seconds)
        reservation.pixels, reservation.seconds = pixels, seconds

    def _leave_ahead(self, reservation: Reservation) -> None:
        if reservation.is_ahead:
            reservation.is_ahead = False
            self._ahead.release()

    def _check_room(self, pixels: int, besides: int, about: str = "") -> None:
        limit = self._settings.max_queue_pixels
        if besides and besides + pixels > limit:
            raise self._overloaded(
                f"the request needs {about}{pixels} pixels computed besides the {about}{besides} of those in "
                f"flight; the limit is {limit} (max_queue_pixels)"
            )

    def _check_wait(self, seconds: float) -> None:
        if seconds > self._settings.max_queue_wait_s:
            raise self._overloaded(self._too_long(f"would wait about {seconds:.1f} s"))

    def _too_long(self, what: str) -> str:
        limit = self._settings.max_queue_wait_s
        return f"the request {what} for the engine; the limit is {limit:g} s (max_queue_wait_s)"

    def _overloaded(self, message: str) -> Overloaded:
        seconds = min(max(1, math.ceil(self.expected_wait)), _LONGEST_RETRY_AFTER)
        return Overloaded(message, headers={"Retry-After": str(seconds)})
