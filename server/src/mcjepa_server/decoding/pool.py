"""Image files are decoded in processes of their own, so that no file can take the server down."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TypeVar

from anyio.to_thread import run_sync
from prometheus_client import Counter

from mcjepa_server.config import Settings
from mcjepa_server.decoding.frames import decode_frame
from mcjepa_server.decoding.messages import BrokenWorker, GarbledReply, KilledWorker
from mcjepa_server.decoding.process import NoWorker, Worker
from mcjepa_server.decoding.worker import smallest
from mcjepa_server.errors import DeadlineExceeded, InternalError, NotReady, UndecodableImage
from mcjepa_server.imaging.geometry import Plan
from mcjepa_server.imaging.limits import PixelBudget

logger = logging.getLogger(__name__)

T = TypeVar("T")

FILES_AT_ONCE = 2  # of one request, so that others have their turn
_RETRY_S = "5"
_NO_PROCESS = "no process can be started to decode images"
_CANARY = b"P4 256 256\n" + bytes(256 * 256 // 8)  # not to be scaled, which would need NumPy


class Decoders:
    """Run the functions of :mod:`.worker`, a bounded number at once, off the event loop.

    A process that dies, hangs or answers what was not asked costs the file it was working on; another one
    takes its place. A file whose process is killed from outside, twice, is not to blame: NotReady. With 0
    processes it is threads of this process, for tests and for platforms without processes to spare.
    """

    def __init__(self, settings: Settings, failures: Counter) -> None:
        self._processes = settings.decode_processes
        self._timeout_s = settings.decode_timeout_s
        self._turns = asyncio.Semaphore(self._processes or os.cpu_count() or 1)
        self._lost_turns = 0  # of processes that could not be started while others work
        self._failures = failures
        self._idle: list[Worker] = []
        self._starting = self._working = 0
        #: Address space of one process in bytes, 0 without processes.
        self.memory_bytes = _address_space(settings.decode_memory_bytes) if self._processes else 0
        #: Why nothing can be decoded, None while it can.
        self.failure: str | None = None

    async def start(self) -> None:
        """Start the processes that are missing; for the first requests, and whenever some were lost."""
        await self._drop_dead()
        missing = self._processes - len(self._idle) - self._working - self._starting
        starts = (self._begin() for _ in range(missing))
        for outcome in await asyncio.gather(*starts, return_exceptions=True):
            if isinstance(outcome, NoWorker):
                if not self._idle and not self._working:
                    self._fail(outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                self._idle.append(outcome)
                if self._lost_turns:
                    self._lost_turns -= 1
                    self._turns.release()

    async def stop(self) -> None:
        """End the processes. One that still works for somebody ends with this process."""
        await asyncio.gather(*(worker.end() for worker in self._idle))
        self._idle.clear()

    async def check(self, plan: Plan) -> None:
        """Decode a tiny image the way of all others. Raises NotReady if no process can be started."""
        await self.run(decode_frame, _CANARY, "canary", PixelBudget(2**16, 2**16), plan, param="canary")

    async def run(self, function: Callable[..., T], *args: object, param: str) -> T:
        """The function's result, or its error. ``param`` names the part in errors of the decoder itself.

        A caller who is cancelled leaves at once: its turn goes to the next, or, where a process has begun,
        after that has finished the file. Raises NotReady, DeadlineExceeded, InternalError, or what the
        function raises.
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
            self._fail(error)
            raise NotReady(_NO_PROCESS, headers={"Retry-After": _RETRY_S}) from None
        except GarbledReply as error:
            self._failures.inc()
            logger.error("a decoder process answered %s with what was not asked, twice: %s", param, error)
            raise InternalError(
                f"{param} cannot be decoded: the decoder gave no answer of use", param=param
            ) from None
        except KilledWorker:
            self._failures.inc()
            logger.error("a decoder process was killed by another process while it decoded %s", param)
            raise NotReady(
                f"{param} was not decoded: its process was killed from outside, as for want of memory",
                headers={"Retry-After": _RETRY_S},
            ) from None
        except BrokenWorker:
            self._failures.inc()
            logger.error("a decoder process died of %s, twice", param)
            raise UndecodableImage(
                f"{param} cannot be decoded: the decoder broke down on it", param=param
            ) from None
        except TimeoutError:
            self._failures.inc()
            logger.error("a decoder process took over %g s for %s and was ended", self._timeout_s, param)
            raise DeadlineExceeded(
                f"decoding {param} did not finish within {self._timeout_s:g} s (decode_timeout_s)"
            ) from None
        finally:
            self._turns.release()

    async def _in_process(self, function: Callable[..., T], args: tuple[object, ...]) -> T:
        worker = await self._take()
        self._working += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                result: T = await worker.call(function, *args)
            return result
        finally:
            self._working -= 1
            if worker.is_ready and len(self._idle) + self._working < self._processes:
                self._idle.append(worker)
            else:
                await worker.end()

    async def _take(self) -> Worker:
        """One that is ready, or a new one. Where none can be started, the turn waits for those at work."""
        while True:
            await self._drop_dead()
            if self._idle:
                return self._idle.pop()
            try:
                return await self._begin()
            except NoWorker as error:
                if not self._working:
                    raise
                logger.warning("a decoder process did not start: %s", error)
            self._lost_turns += 1
            await self._turns.acquire()

    async def _begin(self) -> Worker:
        self._starting += 1
        try:
            worker = await Worker.start(self.memory_bytes)
        finally:
            self._starting -= 1
        self.failure = None
        return worker

    async def _drop_dead(self) -> None:
        dead = [worker for worker in self._idle if not worker.is_ready]
        self._idle = [worker for worker in self._idle if worker not in dead]
        for worker in dead:
            await worker.end()

    def _fail(self, error: NoWorker) -> None:
        if self.failure is None:  # once, not at every try
            logger.error("%s: %s", _NO_PROCESS, error)
        self.failure = _NO_PROCESS


def _address_space(wanted: int) -> int:
    """What is wanted, or what this process itself is allowed, which its children inherit."""
    import resource

    return smallest(wanted, *resource.getrlimit(resource.RLIMIT_AS))


def _look_at_result(task: asyncio.Task[T]) -> None:
    """An error that nobody waits for any more is no defect."""
    if not task.cancelled():
        task.exception()


async def ordered_map(calls: Iterable[Callable[[], Awaitable[T]]], at_once: int) -> AsyncGenerator[T]:
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
