"""Reading request bodies: by declared type, within the limits on bytes, parts and time, as they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request

from mcjepa_server.config import Settings
from mcjepa_server.errors import (
    CLOSE,
    BodyTimeout,
    BodyTooLarge,
    ClientClosedRequest,
    DeadlineExceeded,
    MalformedRequest,
    Overloaded,
    UnsupportedMediaType,
)
from mcjepa_server.forms import Form, FormReader

MULTIPART = "multipart/form-data"
JSON = "application/json"
_SMALL_BODY = 2**20  # bytes
_LENGTH_DIGITS = 20  # of the largest number of 64 bits
_PATIENT_S = 1.0  # for which a body may come slowly, or not at all, before it has to make room
_SLOW = 2**16  # bytes a second


@dataclass(eq=False)
class _Upload:
    """A body that arrives."""

    state: dict[str, Any]
    timeout: asyncio.Timeout
    since: float
    last: float  # bytes that came
    made_room: bool = False

    def is_slow(self, now: float) -> bool:
        return now - self.last > _PATIENT_S or (now - self.since > _PATIENT_S and self.rate(now) < _SLOW)

    def rate(self, now: float) -> float:
        """Bytes a second so far, of those held."""
        held: int = self.state.get("buffered_bytes", 0)
        return held / max(now - self.since, _PATIENT_S)


class ByteBudget:
    """Bytes of all bodies that are held at once, so that many uploads cannot fill the memory.

    An eighth is kept for small bodies, and where there is no room the body that comes slowest makes room: not
    even many uploads that stall shut out the others.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.arriving: set[_Upload] = set()

    def take(self, size: int, state: dict[str, Any]) -> None:
        """Counts bytes for the request whose state this is. Raises Overloaded when there is no room."""
        held = state.get("buffered_bytes", 0) + size
        limit = self.limit if held <= _SMALL_BODY else self.limit - self.limit // 8
        while self.used + size > limit and self._make_room(state):
            pass
        if self.used + size > limit:
            which = "" if limit == self.limit else f", of which {limit} for bodies over {_SMALL_BODY} bytes"
            raise Overloaded(
                f"request bodies hold {self.used} bytes; the limit is {self.limit} (max_buffered_bytes)"
                f"{which}",
                headers={"Retry-After": "1", **CLOSE},
            )
        self.used += size
        state["buffered_bytes"] = held

    def release(self, state: dict[str, Any]) -> None:
        """At the end of a request, whatever became of it."""
        self.used -= state.pop("buffered_bytes", 0)

    def _make_room(self, state: dict[str, Any]) -> bool:
        """End the slowest of the other uploads, if one is slow."""
        if not self.arriving:
            return False
        now = asyncio.get_running_loop().time()
        slow = [
            upload
            for upload in self.arriving
            if upload.state is not state
            and not upload.timeout.expired()
            and upload.state.get("buffered_bytes", 0)
            and upload.is_slow(now)
        ]
        if not slow:
            return False
        slowest = min(slow, key=lambda upload: upload.rate(now))
        slowest.made_room = True
        slowest.timeout.reschedule(now)
        self.release(slowest.state)
        return True


def body_type(request: Request, *allowed: str) -> str:
    """Return the Content-Type without parameters.

    Raises UnsupportedMediaType if it is not allowed, or if the body is compressed.
    """
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaType(
            f"Content-Encoding is {encoding[:100]!r}; send the body without one, as it is",
            param="Content-Encoding",
            headers={"Accept-Encoding": "identity"},
        )
    declared = request.headers.get("content-type", "")
    essence = declared.split(";", 1)[0].strip().lower()
    if essence not in allowed:
        shown = f"{essence[:100]!r}" if essence else "missing"
        raise UnsupportedMediaType(f"Content-Type is {shown}; send {' or '.join(allowed)}")
    return essence


async def read_bytes(request: Request, settings: Settings, budget: ByteBudget) -> bytes:
    """The whole body."""
    chunks: list[bytes] = []
    await _receive(request, settings, budget, chunks.append)
    return b"".join(chunks)


async def read_form(request: Request, settings: Settings, budget: ByteBudget) -> Form:
    """The whole multipart body. Raises MalformedRequest as FormReader."""
    reader = FormReader(request.headers["content-type"], settings.max_parts)
    try:
        await _receive(request, settings, budget, reader.feed)
        return reader.form()
    finally:
        reader.close()


async def _receive(
    request: Request, settings: Settings, budget: ByteBudget, take: Callable[[bytes], None]
) -> None:
    """Gives each chunk to ``take``. The limits hold whether or not Content-Length is there or true."""
    limit = settings.max_body_bytes
    length = request.headers.get("content-length", "")
    if len(length) > _LENGTH_DIGITS:
        raise MalformedRequest(
            f"Content-Length has {len(length)} characters; the limit is {_LENGTH_DIGITS}", headers=CLOSE
        )
    if length.isdecimal() and int(length) > limit:
        raise _too_large(limit, f"{int(length)} bytes")
    size = 0
    async with _in_time(request, settings.body_timeout_s, budget) as upload:
        async for chunk in request.stream():
            upload.last = asyncio.get_running_loop().time()
            size += len(chunk)
            if size > limit:
                raise _too_large(limit, "longer")
            if chunk:
                budget.take(len(chunk), request.scope["state"])
                take(chunk)


@asynccontextmanager
async def _in_time(request: Request, limit: float, budget: ByteBudget) -> AsyncIterator[_Upload]:
    """Around the arrival of a body: before the limit, and before the request's own deadline."""
    now = asyncio.get_running_loop().time()
    slowest = now + limit
    state = request.scope["state"]
    expires = state.get("expires", slowest)
    upload = _Upload(state, asyncio.timeout_at(min(slowest, expires)), now, now)
    try:
        async with upload.timeout:
            budget.arriving.add(upload)
            try:
                yield upload
            finally:
                budget.arriving.remove(upload)
    except TimeoutError:
        if upload.made_room:
            raise BodyTimeout(
                f"the body came slower than {_SLOW} bytes a second while there was no room for others "
                "(max_buffered_bytes)",
                headers=CLOSE,
            ) from None
        if expires < slowest:
            raise DeadlineExceeded(
                "the body did not arrive in the time the request allows (X-Request-Timeout)", headers=CLOSE
            ) from None
        raise BodyTimeout(
            f"the body did not arrive within {limit:g} s (body_timeout_s)", headers=CLOSE
        ) from None
    except ClientDisconnect:
        raise ClientClosedRequest("the client closed the connection") from None


def _too_large(limit: int, found: str) -> BodyTooLarge:
    return BodyTooLarge(f"the body is {found}; the limit is {limit} bytes (max_body_bytes)", headers=CLOSE)
