"""How long the stages of one request took, and how much time it has left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from mcjepa_server.observability import tracing

_deadline: ContextVar[float | None] = ContextVar(
    "deadline", default=None
)  # s, on the clock of the event loop


@asynccontextmanager
async def time_limit(seconds: float) -> AsyncIterator[asyncio.Timeout]:
    """As ``asyncio.timeout``, which it yields; tasks that are started inside know the limit, too."""
    async with asyncio.timeout(seconds) as timeout:
        token = _deadline.set(timeout.when())
        try:
            yield timeout
        finally:
            _deadline.reset(token)


def seconds_left(default: float) -> float:
    """Until the innermost limit, or ``default`` where there is none; negative when it has passed."""
    when = _deadline.get()
    if when is None:
        return default
    return when - asyncio.get_running_loop().time()


@dataclass
class Timings:
    """Seconds by stage: decode, queue, inference, encode."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to the stage."""
        start = time.perf_counter()
        try:
            with tracing.span(name):
                yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def milliseconds(self, name: str) -> float:
        return round(self.seconds.get(name, 0.0) * 1000, 1)

    def headers(self) -> dict[str, str]:
        """Server-Timing (W3C) for browsers and tools, and the two numbers that scripts want."""
        stages = ", ".join(f"{name};dur={self.milliseconds(name)}" for name in self.seconds)
        return {
            "Server-Timing": stages,
            "X-Queue-Time": str(self.milliseconds("queue")),
            "X-Inference-Time": str(self.milliseconds("inference")),
        }
