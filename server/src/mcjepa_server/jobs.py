"""One inference request from its complete body to its reply: admission, deadline, disconnect, timings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request

from mcjepa_server.admission import Place, Work
from mcjepa_server.deadline import time_limit
from mcjepa_server.errors import ClientClosedRequest, DeadlineExceeded
from mcjepa_server.flowcodec import Buffers
from mcjepa_server.service import Service
from mcjepa_server.timing import Timings

T = TypeVar("T")


@dataclass(frozen=True)
class Ticket:
    """What a job holds while it runs: its place in the queue, its body, and the record of its time."""

    service: Service
    place: Place
    state: dict[str, Any]  # of the request's scope
    timings: Timings = field(default_factory=Timings)

    async def turn_to_decode(self) -> None:
        """Before frames are decoded, so that few of those who wait hold their pixels. Raises Overloaded."""
        await self.service.admission.turn_to_decode(self.timings, self.place)

    def release_body(self) -> None:
        """Stop counting the bytes of the request's body; to be called when its images are decoded."""
        self.service.bodies.release(self.state)

    def charge(self, work: Work, turn: Work | None = None) -> None:
        """To be called as soon as the cost is known. Raises Overloaded."""
        self.service.admission.charge(self.place, work, turn)

    async def room_for_reply(self, size: int) -> None:
        """Before the flow is computed whose reply takes so many bytes. Raises InvalidInput or Overloaded."""
        await self.service.admission.room_for_reply(self.timings, self.place, size)

    def shrink_reply(self, body: Buffers) -> None:
        """When the reply is made, and what it was made of is no longer needed."""
        self.service.admission.shrink_reply(self.place, sum(map(len, body)))

    @asynccontextmanager
    async def slot(self, work: Work) -> AsyncIterator[None]:
        """Around each turn at the engine."""
        async with self.service.slot(self.timings, work, self.place):
            yield
        self.service.admission.work_off(self.place, work)


async def run_job(request: Request, service: Service, job: Callable[[Ticket], Coroutine[Any, Any, T]]) -> T:
    """Run the job inside the queue and the deadline; give it up when the caller goes away.

    The place in the queue is kept until the reply is read or dropped, when RequestContext closes ``held``.
    """
    limit, name = _time_limit(request, service.settings.request_timeout_s)
    state = request.scope["state"]
    held: ExitStack = state.setdefault("held", ExitStack())
    place = held.enter_context(service.admission.enter())
    ticket = Ticket(service, place, state)
    try:
        async with time_limit(limit) as deadline:
            return await _unless_disconnected(request, job(ticket))
    except TimeoutError:
        if not deadline.expired():
            raise
        service.note_deadline(ticket.timings)
        raise DeadlineExceeded(f"the request did not finish within {name}") from None
    finally:
        service.admission.finish(place)
        service.metrics.observe_stages(ticket.timings)


def _time_limit(request: Request, limit: float) -> tuple[float, str]:
    """Seconds that are left, and their source: the server's limit, or less if the request says so."""
    state = request.scope["state"]
    left = state.get("expires", float("inf")) - asyncio.get_running_loop().time()
    if left < limit:
        return max(left, 0.0), f"{state['timeout']:g} s (X-Request-Timeout)"
    return limit, f"{limit:g} s (request_timeout_s)"


async def _unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, out of which the current task is cancelled when the caller goes away."""
    task = asyncio.current_task()
    assert task is not None
    is_gone = is_over = False

    def leave(watcher: asyncio.Future[None]) -> None:
        nonlocal is_gone
        if not is_over and not watcher.cancelled():
            watcher.exception()  # a connection that breaks is gone, too
            is_gone = True
            task.cancel()

    watcher = asyncio.ensure_future(_disconnect(request.receive))
    watcher.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if not is_gone or task.uncancel():  # by somebody else, or by both
            raise
        raise ClientClosedRequest("the client closed the connection") from None
    finally:
        is_over = True
        watcher.cancel()


async def _disconnect(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
