"""The time a request has left, for whoever works on it, however deep inside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

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
