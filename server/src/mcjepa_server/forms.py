"""A multipart/form-data body (RFC 7578) to its parts, chunk by chunk."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import (
    DEFAULT_MAX_HEADER_COUNT,
    DEFAULT_MAX_HEADER_SIZE,
    MultipartParser,
    parse_options_header,
)

from mcjepa_server.errors import CLOSE, InvalidInput, MalformedRequest

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

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
