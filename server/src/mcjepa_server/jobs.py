"""One inference request from its complete body to its reply: admission, deadline, disconnect, timings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from mcjepa_server.deadline import time_limit
from mcjepa_server.errors import ClientClosedRequest, DeadlineExceeded
from mcjepa_server.service import Service
from mcjepa_server.timing import Timings

T = TypeVar("T")


async def run_job(request: Request, service: Service, job: Callable[[Timings], Coroutine[Any, Any, T]]) -> T:
    """Runs the job inside the queue and the deadline; gives it up when the caller goes away."""
    timings = Timings()
    limit = service.settings.request_timeout_s
    with service.admission.enter():
        try:
            async with time_limit(limit) as deadline:
                return await _unless_disconnected(request, job(timings))
        except TimeoutError:
            if not deadline.expired():
                raise
            service.note_deadline(timings)
            raise DeadlineExceeded(
                f"the request did not finish within {limit:g} s (request_timeout_s)"
            ) from None
        finally:
            service.metrics.observe_stages(timings)


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
