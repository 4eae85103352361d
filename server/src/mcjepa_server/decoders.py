"""Where image files are decoded: in processes of their own, so that no file can take the server down."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import TypeVar

from anyio.to_thread import run_sync
from prometheus_client import Counter

from mcjepa_server.errors import DeadlineExceeded, NotReady, UndecodableImage
from mcjepa_server.workers import BrokenWorker, NoWorker, Worker

logger = logging.getLogger(__name__)

T = TypeVar("T")

FILES_AT_ONCE = 2  # of one request, so that others have their turn
TIMEOUT_S = 30.0  # of one call; the largest file that is allowed takes a few seconds


class Decoders:
    """Runs functions on hostile bytes, a bounded number at once, off the event loop.

    A process that dies or hangs costs the file it was working on; another one takes its place. With 0
    processes it is threads of this process, for tests and for platforms without processes to spare.
    """

    def __init__(self, processes: int, failures: Counter) -> None:
        self._processes = processes
        self._turns = asyncio.Semaphore(processes or os.cpu_count() or 1)
        self._failures = failures
        self._idle: list[Worker] = []

    async def start(self) -> None:
        """Starts the processes ahead of the first request, which starts those that do not come up in time."""
        starts = (Worker.start() for _ in range(self._processes))
        for outcome in await asyncio.gather(*starts, return_exceptions=True):
            if isinstance(outcome, Worker):
                self._idle.append(outcome)
            else:
                logger.warning("a decoder process did not start: %r", outcome)

    async def stop(self) -> None:
        """Ends the processes. One that still works for somebody ends with this process."""
        await asyncio.gather(*(worker.end() for worker in self._idle))
        self._idle.clear()

    async def run(self, function: Callable[..., T], *args: object, param: str) -> T:
        """The function's result, or its error. ``param`` names the part in errors of the decoder itself.

        A caller who is cancelled leaves at once: its turn goes to the next, or, where a process has begun,
        after that has finished the file.
        """
        await self._turns.acquire()  # which takes none of the time of a call
        if not self._processes:
            try:
                return await run_sync(function, *args)
            finally:
                self._turns.release()
        task = asyncio.create_task(self._guarded(function, args, param))
        task.add_done_callback(_look_at_result)
        return await asyncio.shield(task)

    async def _guarded(self, function: Callable[..., T], args: tuple[object, ...], param: str) -> T:
        try:
            try:
                return await self._in_process(function, args)
            except BrokenWorker:  # it may have died of something else: once more, in another one
                self._failures.inc()
                return await self._in_process(function, args)
        except NoWorker as error:
            self._failures.inc()
            logger.error("no process can be started to decode %s: %s", param, error)
            raise NotReady(
                "no process can be started to decode images", headers={"Retry-After": "5"}
            ) from None
        except BrokenWorker:
            self._failures.inc()
            logger.error("a decoder process died of %s, twice", param)
            raise UndecodableImage(
                f"{param} cannot be decoded: the decoder broke down on it", param=param
            ) from None
        except TimeoutError:
            self._failures.inc()
            logger.error("a decoder process took over %g s for %s and was ended", TIMEOUT_S, param)
            raise DeadlineExceeded(
                f"decoding {param} did not finish within {TIMEOUT_S:g} s (decode_timeout_s)"
            ) from None
        finally:
            self._turns.release()

    async def _in_process(self, function: Callable[..., T], args: tuple[object, ...]) -> T:
        worker = await self._take()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await worker.call(function, *args)
        finally:
            if worker.is_ready:
                self._idle.append(worker)
            else:
                await worker.end()

    async def _take(self) -> Worker:
        """One that is ready, or a new one."""
        while self._idle:
            worker = self._idle.pop()
            if worker.is_ready:
                return worker
            await worker.end()
        return await Worker.start()


def _look_at_result(task: asyncio.Task[T]) -> None:
    """An error that nobody waits for any more is no defect."""
    if not task.cancelled():
        task.exception()
