"""Reading request bodies: by declared type, within the limits on bytes, parts and time, as they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass
from typing import Any

from python_multipart.multipart import DEFAULT_MAX_HEADER_COUNT, DEFAULT_MAX_HEADER_SIZE
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from mcjepa_server.config import Settings
from mcjepa_server.errors import (
    BodyTimeout,
    BodyTooLarge,
    ClientClosedRequest,
    DeadlineExceeded,
    InvalidInput,
    MalformedRequest,
    Overloaded,
    UnsupportedMediaType,
)

MULTIPART = "multipart/form-data"
JSON = "application/json"

#: Of one part, and of one header line of it.
MAX_PART_HEADERS, MAX_PART_HEADER_BYTES = DEFAULT_MAX_HEADER_COUNT, DEFAULT_MAX_HEADER_SIZE

#: After an early reply the rest of the body is not worth reading.
_CLOSE = {"Connection": "close"}

_PART_HEADERS = (
    f"; a part may have {MAX_PART_HEADERS} headers (max_part_headers) "
    f"of {MAX_PART_HEADER_BYTES} bytes each (max_part_header_bytes)"
)


class ByteBudget:
    """Bytes of all bodies that are held at once, so that many uploads cannot fill the memory."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int, state: dict[str, Any]) -> None:
        """Counts bytes for the request whose state this is. Raises Overloaded when there is no room."""
        if self.used + size > self.limit:
            raise Overloaded(
                f"request bodies hold {self.used} bytes; the limit is {self.limit} (max_buffered_bytes)",
                headers={"Retry-After": "1", **_CLOSE},
            )
        self.used += size
        state["buffered_bytes"] = state.get("buffered_bytes", 0) + size

    def release(self, state: dict[str, Any]) -> None:
        """At the end of a request, whatever became of it."""
        self.used -= state.pop("buffered_bytes", 0)


@dataclass(frozen=True)
class Form:
    """Parts of a multipart body, in order."""

    files: list[tuple[str, bytes]]
    fields: dict[str, str]

    def named(self, name: str) -> list[bytes]:
        return [data for part, data in self.files if part == name]

    def check_names(self, files: Collection[str], fields: Collection[str] = ()) -> None:
        """Raises InvalidInput for a part that the path does not know, or a file sent as text."""
        for name in self.fields.keys() & set(files):
            raise InvalidInput(f"part {name!r} must be a file: send it with a file name", param=name)
        names = {name for name, _ in self.files} | self.fields.keys()
        for name in sorted(names.difference(files, fields)):
            known = ", ".join([*files, *fields])
            raise InvalidInput(f"unknown part {name!r}; this path reads {known}", param=name)


def body_type(request: Request, *allowed: str) -> str:
    """The Content-Type without parameters. Raises UnsupportedMediaType if it is not allowed."""
    declared = request.headers.get("content-type", "")
    essence = declared.split(";", 1)[0].strip().lower()
    if essence not in allowed:
        shown = f"{essence[:100]!r}" if essence else "missing"
        raise UnsupportedMediaType(f"Content-Type is {shown}; send {' or '.join(allowed)}")
    return essence


async def read_bytes(request: Request, settings: Settings, budget: ByteBudget) -> bytes:
    """The whole body."""
    chunks = [chunk async for chunk in _bounded(request, settings, budget)]
    return b"".join(chunks)


async def read_form(request: Request, settings: Settings, budget: ByteBudget) -> Form:
    """The whole multipart body. Raises MalformedRequest if it does not parse or has too many parts.

    The headers of a part are bounded by python-multipart: MAX_PART_HEADERS of them, of MAX_PART_HEADER_BYTES
    each.
    """
    parser = _Parser(request.headers, _bounded(request, settings, budget), settings.max_parts)
    parser.spool_max_size = settings.max_body_bytes  # in memory: the limit bounds it, and a disk is slower
    try:
        form = await parser.parse()
    except MultiPartException as error:
        hint = _PART_HEADERS if parser.in_headers else ""
        raise MalformedRequest(f"the multipart body cannot be parsed: {error.message}{hint}") from error
    files: list[tuple[str, bytes]] = []
    fields: dict[str, str] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            with value.file as file:
                files.append((name, file.read()))
        else:
            fields[name] = value
    return Form(files, fields)


class _Parser(MultiPartParser):
    """Starlette's, which takes a body that breaks off for a whole one, and counts files and fields apart."""

    def __init__(self, headers: Headers, stream: AsyncGenerator[bytes, None], max_parts: int) -> None:
        super().__init__(headers, stream, max_files=max_parts, max_fields=max_parts)
        self.complete = False
        self.in_headers = False  # of a part
        self.parts = 0
        self.max_parts = max_parts

    def on_part_begin(self) -> None:
        self.parts += 1
        if self.parts > self.max_parts:
            raise MalformedRequest(
                f"the body has over {self.max_parts} parts; the limit is {self.max_parts} (max_parts)",
                headers=_CLOSE,
            )
        self.in_headers = True
        super().on_part_begin()

    def on_headers_finished(self) -> None:
        self.in_headers = False
        super().on_headers_finished()

    def on_end(self) -> None:
        self.complete = True

    async def parse(self) -> FormData:
        self.stream = self._checked(self.stream)
        return await super().parse()

    async def _checked(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """Fails inside parse(), which then closes the files it has opened."""
        async for chunk in stream:
            yield chunk
        if not self.complete:
            raise MalformedRequest("the multipart body ends before its closing boundary")


async def _bounded(request: Request, settings: Settings, budget: ByteBudget) -> AsyncGenerator[bytes, None]:
    """Chunks of the body. The limits hold whether or not Content-Length is there or true."""
    limit = settings.max_body_bytes
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise _too_large(limit, f"{int(length)} bytes")
    size = 0
    async for chunk in _timely(request, settings.body_timeout_s):
        size += len(chunk)
        if size > limit:
            raise _too_large(limit, "longer")
        budget.take(len(chunk), request.scope["state"])
        yield chunk


async def _timely(request: Request, limit: float) -> AsyncGenerator[bytes, None]:
    """Chunks that arrive before the limit, and before the request's own deadline."""
    slowest = asyncio.get_running_loop().time() + limit
    expires = request.scope["state"].get("expires", slowest)
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout_at(min(slowest, expires)):
                chunk = await anext(stream, None)
        except TimeoutError:
            if expires < slowest:
                raise DeadlineExceeded(
                    "the body did not arrive in the time the request allows (X-Request-Timeout)",
                    headers=_CLOSE,
                ) from None
            raise BodyTimeout(
                f"the body did not arrive within {limit:g} s (body_timeout_s)", headers=_CLOSE
            ) from None
        except ClientDisconnect:
            raise ClientClosedRequest("the client closed the connection") from None
        if chunk is None:
            return
        yield chunk


def _too_large(limit: int, found: str) -> BodyTooLarge:
    return BodyTooLarge(f"the body is {found}; the limit is {limit} bytes (max_body_bytes)", headers=_CLOSE)
