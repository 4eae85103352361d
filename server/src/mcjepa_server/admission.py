"""How many requests may be inside, and how many inferences may run. Reject rather than queue without end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from mcjepa_server.errors import Overloaded
from mcjepa_server.timing import Timings


class Admission:
    """Counts requests from their complete body to their reply, and hands out the slots of the engine."""

    def __init__(self, max_concurrency: int, max_queue: int) -> None:
        self.capacity = max_concurrency + max_queue
        self.inside = 0
        self.waiting = 0
        self._slots = asyncio.Semaphore(max_concurrency)

    def check(self) -> None:
        """Raises Overloaded when there is no room; called before the body is read, to refuse cheaply."""
        if self.inside >= self.capacity:
            raise Overloaded(
                f"{self.inside} requests are in flight; the limit is {self.capacity} "
                "(max_concurrency + max_queue)",
                headers={"Retry-After": "1"},
            )

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Holds a place among the requests inside. Raises Overloaded when there is none."""
        self.check()
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    @asynccontextmanager
    async def slot(self, timings: Timings) -> AsyncIterator[None]:
        """Waits for a slot of the engine, first come first served."""
        self.waiting += 1
        try:
            with timings.stage("queue"):
                await self._slots.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._slots.release()
