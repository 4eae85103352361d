"""One inference request from its complete body to its reply: admission, deadline, disconnect, timings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request

from mcjepa_server.admission import Place, Work
from mcjepa_server.deadline import time_limit
from mcjepa_server.errors import ClientClosedRequest, DeadlineExceeded
from mcjepa_server.service import Service
from mcjepa_server.timing import Timings

T = TypeVar("T")


@dataclass(frozen=True)
class Ticket:
    """What a job holds while it runs: its place in the queue, and the record of its time."""

    service: Service
    place: Place
    timings: Timings = field(default_factory=Timings)

    async def turn_to_decode(self) -> None:
        """Before frames are decoded, so that few of those who wait hold their pixels. Raises Overloaded."""
        await self.service.admission.turn_to_decode(self.timings, self.place)

    def charge(self, work: Work) -> None:
        """To be called as soon as the cost is known. Raises Overloaded."""
        self.service.admission.charge(self.place, work)

    def slot(self, work: Work) -> AbstractAsyncContextManager[None]:
        """Around each call of the engine."""
        return self.service.slot(self.timings, work, self.place)


async def run_job(request: Request, service: Service, job: Callable[[Ticket], Coroutine[Any, Any, T]]) -> T:
    """Runs the job inside the queue and the deadline; gives it up when the caller goes away."""
    limit, name = _time_limit(request, service.settings.request_timeout_s)
    with service.admission.enter(request.scope["state"].get("api_key")) as place:
        ticket = Ticket(service, place)
        try:
            async with time_limit(limit) as deadline:
                return await _unless_disconnected(request, job(ticket))
        except TimeoutError:
            if not deadline.expired():
                raise
            service.note_deadline(ticket.timings)
            raise DeadlineExceeded(f"the request did not finish within {name}") from None
        finally:
            service.metrics.observe_stages(ticket.timings)


def _time_limit(request: Request, limit: float) -> tuple[float, str]:
    """Seconds that are left, and their source: the server's limit, or less if the request says so."""
    state = request.scope["state"]
    left = state.get("expires", float("inf")) - asyncio.get_running_loop().time()
    if left < limit:
        return max(left, 0.0), f"{state['timeout']:g} s (X-Request-Timeout)"
    return limit, f"{limit:g} s (request_timeout_s)"


async def _unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnect(request.receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientClosedRequest("the client closed the connection")
        return task.result()
    finally:
        for pending in (task, watcher):
            pending.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _disconnect(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
