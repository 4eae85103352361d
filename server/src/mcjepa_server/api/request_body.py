"""Read request bodies by declared type, within the limits on bytes, parts and time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import (
    DEFAULT_MAX_HEADER_COUNT,
    DEFAULT_MAX_HEADER_SIZE,
    MultipartParser,
    parse_options_header,
)
from starlette.requests import ClientDisconnect, Request

from mcjepa_server.config import Settings
from mcjepa_server.errors import (
    CLOSE,
    BodyTimeout,
    BodyTooLarge,
    ClientClosedRequest,
    DeadlineExceeded,
    InvalidInput,
    MalformedRequest,
    UnsupportedMediaType,
)
from mcjepa_server.scheduling.byte_budget import SLOW, ByteBudget, Upload

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks


MULTIPART = "multipart/form-data"
JSON = "application/json"
_LENGTH_DIGITS = 20  # of the largest number of 64 bits


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
async def _in_time(request: Request, limit: float, budget: ByteBudget) -> AsyncIterator[Upload]:
    """Around the arrival of a body: before the limit, and before the request's own deadline."""
    now = asyncio.get_running_loop().time()
    slowest = now + limit
    state = request.scope["state"]
    expires = state.get("expires", slowest)
    upload = Upload(state, asyncio.timeout_at(min(slowest, expires)), now, now)
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
                f"the body came slower than {SLOW} bytes a second while there was no room for others "
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


#: Of one part, and of one header line of it.
MAX_PART_HEADERS, MAX_PART_HEADER_BYTES = DEFAULT_MAX_HEADER_COUNT, DEFAULT_MAX_HEADER_SIZE

_PART_HEADERS = (
    f"; a part may have {MAX_PART_HEADERS} headers (max_part_headers) "
    f"of {MAX_PART_HEADER_BYTES} bytes each (max_part_header_bytes)"
)

#: Of a Content-Disposition and of the Content-Type: the time to find their parameters is quadratic.
MAX_PARAMETERS, MAX_PARAMETER_BYTES = 16, 1024


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


class FormReader:
    """Takes a body as it arrives. Raises MalformedRequest if it does not parse or has too many parts.

    python-multipart finds the parts and calls back. What Starlette builds on it holds each part as a
    temporary file, and takes a body that breaks off for a whole one.
    """

    def __init__(self, content_type: str, max_parts: int) -> None:
        self._form = Form([], {})
        self._max_parts = max_parts
        self._parts = 0
        self._is_complete = False
        self._in_headers = False
        self._header = self._value = b""  # of the line that arrives
        self._name = ""  # of the part that arrives
        self._is_file = False
        self._is_disposed = False  # whether its Content-Disposition has come
        self._data: list[bytes] = []
        boundary = _parameters("Content-Type", content_type.encode("latin-1")).get(b"boundary")
        if not boundary:
            raise MalformedRequest("the multipart body cannot be parsed: its Content-Type has no boundary")
        try:
            self._parser = MultipartParser(
                boundary,
                self._callbacks(),
                max_header_count=MAX_PART_HEADERS,
                max_header_size=MAX_PART_HEADER_BYTES,
            )
        except FormParserError as error:
            raise self._malformed(error) from error

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise self._malformed(error) from error

    def form(self) -> Form:
        """All parts, at the end of the body."""
        if not self._is_complete:
            raise MalformedRequest("the multipart body ends before its closing boundary")
        return self._form

    def close(self) -> None:
        """Let go of the parser, which refers back: else both keep the parts until a collection."""
        del self._parser

    def _callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_header,
            "on_header_value": self._on_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._on_data,
            "on_part_end": self._end,
            "on_end": self._end_body,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > self._max_parts:
            raise MalformedRequest(
                f"the body has over {self._max_parts} parts; the limit is {self._max_parts} (max_parts)",
                headers=CLOSE,
            )
        self._in_headers = True
        self._name, self._is_file, self._data = "", False, []
        self._is_disposed = False

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            if self._is_disposed:
                raise MalformedRequest("a part has more than one Content-Disposition", headers=CLOSE)
            self._is_disposed = True
            options = _parameters("a part's Content-Disposition", self._value)
            self._name = options.get(b"name", b"").decode(errors="replace")
            self._is_file = b"filename" in options
        self._header = self._value = b""

    def _end_headers(self) -> None:
        self._in_headers = False
        if not self._name:
            raise MalformedRequest("a part of the multipart body has no name", headers=CLOSE)

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def _end(self) -> None:
        data = b"".join(self._data)
        self._data = []
        if self._is_file:
            self._form.files.append((self._name, data))
        else:
            self._form.fields[self._name] = data.decode(errors="replace")

    def _end_body(self) -> None:
        self._is_complete = True

    def _malformed(self, error: FormParserError) -> MalformedRequest:
        hint = _PART_HEADERS if self._in_headers else ""
        return MalformedRequest(f"the multipart body cannot be parsed: {error}{hint}", headers=CLOSE)


def _parameters(header: str, value: bytes) -> dict[bytes, bytes]:
    """Gives the parameters of a header. Raises MalformedRequest if there are too many, or it is too long."""
    count = value.count(b";")
    if count > MAX_PARAMETERS or len(value) > MAX_PARAMETER_BYTES:
        raise MalformedRequest(
            f"{header} has {count} semicolons and {len(value)} bytes; "
            f"the limits are {MAX_PARAMETERS} and {MAX_PARAMETER_BYTES}",
            headers=CLOSE,
        )
    return parse_options_header(value)[1]
