"""Calls whose results are wanted in order, begun before the ones in front of them are done."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


async def in_order(calls: Iterable[Callable[[], Awaitable[T]]], at_once: int) -> AsyncGenerator[T]:
    """The results, or the error of the first call that fails; ``at_once`` calls run at most.

    To be closed (``contextlib.aclosing``) by whoever may leave it early: that cancels the calls begun.
    """
    begun: deque[asyncio.Future[T]] = deque()
    try:
        for call in calls:
            begun.append(asyncio.ensure_future(call()))
            if len(begun) == at_once:
                yield await begun.popleft()
        while begun:
            yield await begun.popleft()
    finally:
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)
