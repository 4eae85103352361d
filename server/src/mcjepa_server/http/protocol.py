"""Bound what the HTTP layer takes before any application sees it: bytes, time and connections.

Uvicorn's parser in C has no such limits: it would collect headers and trailers without end, wait for them for
ever, and keep a reply for as long as its caller does not read it. docs/decisions/0034 says why it is bounded
here and not replaced.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from contextlib import suppress
from operator import itemgetter
from types import SimpleNamespace
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mcjepa_server.config import Settings
from mcjepa_server.errors import ApiError, HeadersTooLarge, MalformedRequest
from mcjepa_server.http.problems import MEDIA_TYPE, problem_body

logger = logging.getLogger(__name__)
_SECOND_LOOK_S = 0.1
_PATIENT_S = 1.0  # for which a connection may wait for its caller before it has to make room
_SLOW = 2**16  # bytes a second, of a body or of a reply; who is slower may have to go
_LINE_BYTES = 4  # of a header besides its name and value: a colon, a space and the end of the line
_UNSENT_BYTES = 2**17  # of a reply that the kernel takes before it is sent
_CHUNK_BYTES = 5  # of a chunk at least, besides its data: its size and two ends of lines
_BODY_PER_FRAMING = 8  # bytes of body that pay for one more of chunk headers
_DISCARDED_BYTES = 2**20  # that may still come behind what was refused here, so that its caller reads why


class _Stop(Exception):
    """Raised in a callback of the parser, it ends the parsing; uvicorn then calls send_400_response."""


class BoundedProtocol(HttpToolsProtocol):
    """Serve one connection. :func:`bounded_protocol` makes the subclass that knows the settings.

    Whatever of a request is not its body is counted together: the request line, headers, trailers, and the
    headers of chunks with their extensions. Requests are not pipelined: one that comes before the reply to
    the one before it is not read, and that reply is the last of the connection, as RFC 9112 (9.3.2) lets a
    server do. So nothing is kept for later, and a caller who hangs up is always noticed.
    """

    settings: Settings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_in_head = True
        self._is_deaf = False  # what still arrives is not parsed
        self._discarded = 0  # bytes of it
        self._lingers = False  # closed for writing, and read until the request ends
        self._may_linger = True
        self._parsed = 0  # bytes of what is not body, as far as it is parsed
        self._framing = 0  # and with what is not
        self._body = 0
        self._waits_since = 0.0  # for what _patience is for
        self._body_since: float | None = None  # while a body arrives
        self._slack = self.settings.write_timeout_s  # by which the caller may still fall behind in reading
        self._patience: asyncio.TimerHandle | None = None  # for the caller to send
        self._unread, self._unread_since = 0, 0.0  # bytes of a reply, when they became too many
        self._unsent: asyncio.TimerHandle | None = None  # for the caller to read

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _keep_little_unsent(transport)
        if len(self.connections) > self.settings.max_connections and not self._make_room():
            logger.warning("connection refused: %d are open (max_connections)", len(self.connections) - 1)
            transport.abort()
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_timing()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            self._discarded += len(data)
            if self._lingers and self._discarded > _DISCARDED_BYTES:
                self.transport.abort()
            return
        self._framing += len(data)
        if self._is_in_head and (self.cycle is None or self._is_answered()):
            self._wait()
        super().data_received(data)
        if self._framing > self._most():
            self._refuse(self._too_large())
        self._be_idle()

    def pause_writing(self) -> None:
        """Called when a reply is not taken as fast as it is written."""
        super().pause_writing()
        self._unread, self._unread_since = self.transport.get_write_buffer_size(), self.loop.time()
        self._time_the_reader()

    def resume_writing(self) -> None:
        read = self._unread - self.transport.get_write_buffer_size()
        behind = self.loop.time() - self._unread_since - read / _SLOW
        self._slack = min(self._slack - behind, self.settings.write_timeout_s)
        if not self.transport.is_closing():
            self._stop_timing()
        super().resume_writing()

    # httptools

    def on_message_begin(self) -> None:
        if self._lingers or (self.cycle is not None and not self._is_answered()):
            self._is_deaf = True
            self.cycle.keep_alive = False
            raise _Stop
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + _LINE_BYTES)
        if self._is_in_head:  # trailers are no headers of the request, which may be at work already
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.cycle.transport = SimpleNamespace(  # type: ignore[assignment]
            write=self.transport.write, is_closing=self.transport.is_closing, close=self._linger
        )
        self._is_in_head = False
        self._body_since = self.loop.time()
        self._slack = self.settings.write_timeout_s
        self._stop_waiting()
        if self.parser.should_upgrade():  # to what is not spoken here; httptools parses nothing behind it
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._framing = max(0, self._framing - len(body))
        self._body += len(body)
        super().on_body(body)

    def on_chunk_header(self) -> None:
        self._count(_CHUNK_BYTES)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_in_head = True
        self._body_since = None
        self._parsed = self._framing = self._body = 0
        self._stop_waiting()
        if self._lingers:
            self._close()

    # uvicorn

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._time_the_reader()
        elif self.cycle.response_complete and self._body_since is not None:
            # for the rest of a body that was answered early, which nobody reads, as for one that is read
            since = self.loop.time() - self._body_since
            self._wait(max(self.settings.body_timeout_s - since, self.settings.header_timeout_s))

    def shutdown(self) -> None:
        self._may_linger = False
        super().shutdown()
        if self._lingers:
            self._close()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._time_the_reader()

    def send_400_response(self, msg: str) -> None:
        if not self._is_deaf:
            self._refuse(MalformedRequest("the bytes received are not a request of HTTP/1.1"))

    # of our own

    def _count(self, size: int) -> None:
        self._parsed += size
        if self._parsed > self._most():
            self._refuse(self._too_large())
            raise _Stop

    def _is_answered(self) -> bool:
        """Whether all of the last reply is written. The application may have to say so yet."""
        cycle = self.cycle
        is_whole = cycle.chunked_encoding is False and cycle.expected_content_length == 0
        return cycle.response_complete or (cycle.response_started and is_whole)

    def _most(self) -> int:
        """Bytes that may come besides the body."""
        return self.settings.max_header_bytes + self._body // _BODY_PER_FRAMING

    def _too_large(self) -> HeadersTooLarge:
        limit = self.settings.max_header_bytes
        return HeadersTooLarge(
            "the request line, headers, trailers and chunk headers are longer than the limit, "
            f"{limit} bytes (max_header_bytes)"
        )

    def _refuse(self, error: ApiError) -> None:
        """Answer here, unless a reply has begun: the application has not heard of this request, or waits."""
        self._is_deaf = True
        if self._is_in_head or not self.cycle.response_started:
            body = json.dumps(problem_body(error, {"path": None})).encode()
            self.transport.write(
                b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
                % (error.status, error.title.encode(), MEDIA_TYPE.encode(), len(body), body)
            )
            if not self._is_in_head:  # the application need not wait any longer
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            self._half_close()
            self._wait()
        else:
            self._close()

    def _linger(self) -> None:
        """Close behind a reply, or at the end of the request if that still arrives.

        Bytes that come to a closed connection reset it, and its caller may lose the reply.
        """
        if self._is_in_head:
            self.transport.close()
        else:
            self._half_close()

    def _half_close(self) -> None:
        if self._may_linger and self.transport.can_write_eof():
            self._lingers = True
            with suppress(OSError):  # the caller has gone
                self.transport.write_eof()
        else:
            self.transport.close()

    def _be_idle(self) -> None:
        """Arm uvicorn's timer of an idle connection, which it cancels when bytes come and arms with a reply
        alone: not behind the rest of a body that was answered early.
        """
        if (
            self.cycle is not None
            and self.cycle.response_complete
            and self._patience is None
            and self.timeout_keep_alive_task is None
            and not self.transport.is_closing()
        ):
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _make_room(self) -> bool:
        """End a connection, if there is one that has waited for its caller.

        The first is the one that has waited longest for the rest of a head, or of a body that nobody reads;
        the second the one that has been idle for the longest time after a reply; the third the one whose body
        comes slowest.
        """
        others = [
            connection
            for connection in self.connections
            if isinstance(connection, BoundedProtocol) and not connection.transport.is_closing()
        ]
        latest = self.loop.time() - _PATIENT_S
        waiting = [
            (connection._waits_since, connection.transport)
            for connection in others
            if connection._patience is not None and connection._waits_since <= latest
        ]
        idle = [
            (connection.timeout_keep_alive_task.when(), connection.transport)
            for connection in others
            if connection.timeout_keep_alive_task is not None
        ]
        slow = [
            (rate, connection.transport)
            for connection in others
            if connection._body_since is not None
            and connection._body_since <= latest
            and (rate := connection._body / (self.loop.time() - connection._body_since)) < _SLOW
        ]
        if not (candidates := waiting or idle or slow):
            return False
        min(candidates, key=itemgetter(0))[1].abort()
        return True

    def _wait(self, seconds: float | None = None) -> None:
        if self._patience is None:
            self._waits_since = self.loop.time()
            seconds = self.settings.header_timeout_s if seconds is None else seconds
            self._patience = self.loop.call_later(seconds, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _too_slow(self) -> None:
        """Look once more: after a stall of the loop, what is late may be there already, unread."""
        self._patience = self.loop.call_later(_SECOND_LOOK_S, self._give_up)

    def _give_up(self) -> None:
        """Close without a word: there is no request yet that could be answered."""
        self._patience = None
        self._close()

    def _close(self) -> None:
        self.transport.close()
        self._time_the_reader()  # it stays open until what was written is read

    def _time_the_reader(self) -> None:
        if self._unsent is None:
            self._unsent = self.loop.call_later(max(0.0, self._slack), self._drop)

    def _stop_timing(self) -> None:
        if self._unsent is not None:
            self._unsent.cancel()
            self._unsent = None

    def _drop(self) -> None:
        self._unsent = None
        logger.warning(
            "connection dropped: its reply was read %g s (write_timeout_s) slower than %d bytes a second",
            self.settings.write_timeout_s,
            _SLOW,
        )
        self.transport.abort()


def _keep_little_unsent(transport: asyncio.Transport) -> None:
    """Let the kernel ask for more as soon as a little was read, not when a third of its 4 MB was."""
    connection = transport.get_extra_info("socket")
    over_tcp = connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6)
    if over_tcp and hasattr(socket, "TCP_NOTSENT_LOWAT"):  # Linux and macOS
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)


def bounded_protocol(settings: Settings) -> type[BoundedProtocol]:
    """The class to give to uvicorn as ``http``."""
    return type("Protocol", (BoundedProtocol,), {"settings": settings})
