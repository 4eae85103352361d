"""Clips under way, a bounded number, and their results in order: once blocking, once awaiting."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from mcjepa_client._results import AnalyzeResult
from mcjepa_client._video.clips import Clip

Answer = tuple[Clip, AnalyzeResult]


def answers(
    clips: Iterator[Clip], ask: Callable[[Clip], AnalyzeResult], window: int, stopped: threading.Event
) -> Generator[Answer, None, None]:
    """Each clip with its answer, in order. At most `window` are held at a time, whatever each takes.

    `stopped` is set when nobody wants the answers any more, so that calls in other threads end.
    """
    pool = ThreadPoolExecutor(window, thread_name_prefix="mcjepa-video")
    pending: deque[tuple[Clip, Future[AnalyzeResult]]] = deque()
    try:
        for clip in clips:
            pending.append((clip, pool.submit(ask, clip)))
            if len(pending) == window:
                yield _first_result(pending)
        while pending:
            yield _first_result(pending)
    finally:
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _first_result(pending: deque[tuple[Clip, Future[AnalyzeResult]]]) -> Answer:
    clip, future = pending.popleft()
    return clip, future.result()


async def async_answers(
    clips: Iterator[Clip], ask: Callable[[Clip], Awaitable[AnalyzeResult]], window: int
) -> AsyncGenerator[Answer, None]:
    """As `answers`; frames are decoded in a thread."""
    pending: deque[tuple[Clip, asyncio.Task[AnalyzeResult]]] = deque()
    try:
        while (clip := await asyncio.to_thread(next, clips, None)) is not None:
            pending.append((clip, asyncio.ensure_future(_awaited(ask(clip)))))
            if len(pending) == window:
                first, task = pending.popleft()
                yield first, await task
        while pending:
            first, task = pending.popleft()
            yield first, await task
    finally:
        for _, task in pending:
            task.cancel()
        await asyncio.gather(*(task for _, task in pending), return_exceptions=True)


async def _awaited(answer: Awaitable[AnalyzeResult]) -> AnalyzeResult:
    return await answer
