"""One inference request from its complete body to its reply: admission, deadline, disconnect, timings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from mcjepa_server.errors import ClientClosedRequest, DeadlineExceeded
from mcjepa_server.observability.timing import Timings, time_limit
from mcjepa_server.scheduling.admission import Reservation, Work
from mcjepa_server.scheduling.lifecycle import Service
from mcjepa_server.types import Buffers


@dataclass(frozen=True)
class InferenceRequest:
    """What a request holds while it runs: its place in the queue, its body, and the record of its time."""

    service: Service
    reservation: Reservation
    state: dict[str, Any]  # of the request's scope
    timings: Timings = field(default_factory=Timings)

    async def acquire_decode_slot(self) -> None:
        """Wait before frames are decoded, so that few of those who wait hold their pixels.

        Raises Overloaded.
        """
        await self.service.admission.acquire_decode_slot(self.timings, self.reservation)

    def release_body(self) -> None:
        """Stop counting the bytes of the request's body; to be called when its images are decoded."""
        self.service.bodies.release(self.state)

    def reserve(self, work: Work, turn: Work | None = None) -> None:
        """Count the cost of the request, as soon as it is known. Raises Overloaded."""
        self.service.admission.reserve(self.reservation, work, turn)

    async def reserve_reply(self, size: int) -> None:
        """Wait for room for a reply of so many bytes, before its flow is computed.

        Raises InvalidInput or Overloaded.
        """
        await self.service.admission.reserve_reply(self.timings, self.reservation, size)

    def shrink_reply(self, body: Buffers) -> None:
        """Keep the bytes of the reply alone, once it is made."""
        self.service.admission.shrink_reply(self.reservation, sum(map(len, body)))

    @asynccontextmanager
    async def slot(self, work: Work) -> AsyncIterator[None]:
        """Wrap each turn at the engine."""
        async with self.service.slot(self.timings, work, self.reservation):
            yield
        self.service.admission.work_off(self.reservation, work)


@asynccontextmanager
async def inference_request(request: Request, service: Service) -> AsyncIterator[InferenceRequest]:
    """Run what is inside within the queue and the deadline; cancel it when the caller goes away.

    The place in the queue is kept until the reply is read or dropped, when RequestContext closes ``held``.
    Raises Overloaded, DeadlineExceeded or ClientClosedRequest.
    """
    limit, name = _time_limit(request, service.settings.request_timeout_s)
    state = request.scope["state"]
    held: ExitStack = state.setdefault("held", ExitStack())
    reservation = held.enter_context(service.admission.enter())
    inference = InferenceRequest(service, reservation, state)
    try:
        async with time_limit(limit) as deadline, _unless_disconnected(request):
            yield inference
    except TimeoutError:
        if not deadline.expired():
            raise
        service.note_deadline(inference.timings)
        raise DeadlineExceeded(f"the request did not finish within {name}") from None
    finally:
        service.admission.finish(reservation)
        service.metrics.observe_stages(inference.timings)


def _time_limit(request: Request, limit: float) -> tuple[float, str]:
    """Return the seconds that are left, and their source: the server's limit, or the request's if shorter."""
    state = request.scope["state"]
    left = state.get("expires", float("inf")) - asyncio.get_running_loop().time()
    if left < limit:
        return max(left, 0.0), f"{state['timeout']:g} s (X-Request-Timeout)"
    return limit, f"{limit:g} s (request_timeout_s)"


@asynccontextmanager
async def _unless_disconnected(request: Request) -> AsyncIterator[None]:
    """Cancel what is inside when the caller goes away. Raises ClientClosedRequest then."""
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
        yield
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
