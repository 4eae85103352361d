"""What the HTTP layer must bound, below any application: connections, and the size and time of headers.

Uvicorn's parser in C has no such limits: it would collect headers without end, and wait for them for ever.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mcjepa_server.config import Settings
from mcjepa_server.errors import HeadersTooLarge
from mcjepa_server.problems import MEDIA_TYPE, problem_body

logger = logging.getLogger(__name__)
_SECOND_LOOK_S = 0.1


class BoundedProtocol(HttpToolsProtocol):
    """One connection. :func:`bounded_protocol` makes the subclass that knows the settings."""

    settings: Settings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_headers = True
        self._unparsed = 0  # bytes since the headers began, while they are not complete
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.settings.max_connections:
            logger.warning("connection refused: %d are open (max_connections)", len(self.connections) - 1)
            transport.abort()
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_headers:
            self._unparsed += len(data)
            self._wait()
        super().data_received(data)
        if self._in_headers and self._unparsed > self.settings.max_header_bytes:
            self._refuse()

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._stop_waiting()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.settings.max_header_bytes:
            body = _problem(self.settings)
            self.app = Response(body, 431, {"Connection": "close"}, MEDIA_TYPE)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_headers = True
        self._unparsed = 0
        self._stop_waiting()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._in_headers and not self.transport.is_closing():
            self._wait()  # for the rest of a body that was answered early, which nobody reads

    def _wait(self) -> None:
        if self._patience is None:
            self._patience = self.loop.call_later(self.settings.header_timeout_s, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _too_slow(self) -> None:
        """Once more round: after a stall of the loop, what is late may be there already, unread."""
        self._patience = self.loop.call_later(_SECOND_LOOK_S, self._give_up)

    def _give_up(self) -> None:
        """Without a word: there is no request yet that could be answered."""
        self._patience = None
        self.transport.close()

    def _refuse(self) -> None:
        """Here, since the application has not heard of this request."""
        body = _problem(self.settings)
        self.transport.write(
            b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: %b\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (MEDIA_TYPE.encode(), len(body), body)
        )
        self.transport.close()


def bounded_protocol(settings: Settings) -> type[BoundedProtocol]:
    """The class to give to uvicorn as ``http``."""
    return type("Protocol", (BoundedProtocol,), {"settings": settings})


def _problem(settings: Settings) -> bytes:
    limit = settings.max_header_bytes
    error = HeadersTooLarge(
        f"the request line and headers are longer than the limit, {limit} bytes (max_header_bytes)"
    )
    return json.dumps(problem_body(error, {"path": None})).encode()
