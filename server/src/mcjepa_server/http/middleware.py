"""The layers around every request: path prefix, request ids, traces, metrics, security headers."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcjepa_server.errors import InternalError
from mcjepa_server.http.problems import problem_response
from mcjepa_server.observability import logs, tracing
from mcjepa_server.scheduling.lifecycle import Service

logger = logging.getLogger(__name__)
access = logging.getLogger("mcjepa_server.access")

_LOGGED_PATH = 256  # characters
_PIECE = 2**18  # bytes of a reply that are written at once; the next ones wait until these are read
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
#: W3C Trace Context, version 00 and the future ones that start like it.
_TRACESTATE = re.compile(r"[ -~]{1,512}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


class RequestContext:
    """Pure ASGI, so that nothing buffers the reply."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service
        self.metrics = service.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        identity = _identity(Headers(scope=scope))
        state = scope.setdefault("state", {})
        state["request_id"] = identity["X-Request-ID"]
        logs.request_id.set(state["request_id"])
        state["started"] = asyncio.get_running_loop().time()
        state["api_key"] = None
        held = state["held"] = ExitStack()
        status = 0
        start = time.perf_counter()

        async def send_with_identity(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(identity)
                if self.service.draining:
                    headers["Connection"] = "close"
            for piece in _pieces(message):
                await send(piece)

        try:
            with tracing.request_span(f"{scope['method']} request", _trace_context(Headers(scope=scope))):
                await self.app(scope, receive, send_with_identity)
        except Exception:
            logger.exception("request %s failed", identity["X-Request-ID"])
            if status:  # too late for another reply; the server closes the connection
                raise
            error = InternalError("the server failed; its log has the details under this request id")
            await problem_response(error, scope)(scope, receive, send_with_identity)
        finally:
            held.close()
            self.service.bodies.release(state)
            self._observe(scope, status, time.perf_counter() - start)

    def _observe(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")  # never the raw path: labels must stay few
        self.metrics.requests.labels(scope["method"], route, str(status)).inc()
        self.metrics.request_seconds.labels(route).observe(seconds)
        code = scope["state"].get("error_code")
        if code is not None:
            self.metrics.failures.labels(code).inc()
        fields = {
            "method": scope["method"],
            "path": scope["path"][:_LOGGED_PATH],
            "route": route,
            "status": status,
            "code": code or "ok",
            "milliseconds": round(seconds * 1000, 1),
            "api_key": scope["state"]["api_key"],  # its name
            "request_id": scope["state"]["request_id"],
        }
        text = "%(method)s %(path)r %(status)d %(code)s in %(milliseconds).1f ms, request %(request_id)s"
        access.info(text, fields, extra=fields)  # %r: a path may hold line breaks


def _pieces(message: Message) -> Iterator[Message]:
    """A large body in parts; the server waits before each until the ones before it are sent."""
    body = message.get("body", b"")
    if len(body) <= _PIECE:
        yield message
        return
    view = memoryview(body)
    for start in range(0, len(view), _PIECE):
        is_last = start + _PIECE >= len(view)
        more = message.get("more_body", False) if is_last else True
        yield {**message, "body": view[start : start + _PIECE], "more_body": more}


def _identity(headers: Headers) -> dict[str, str]:
    """The caller's request id, or a new one, and its trace context if it has one."""
    wanted = headers.get("x-request-id", "")
    identity = {
        "X-Request-ID": wanted if _REQUEST_ID.fullmatch(wanted) else f"{random.getrandbits(128):032x}"
    }
    return identity | {k: v for k, v in _trace_context(headers).items() if k == "traceparent"}


def _trace_context(headers: Headers) -> dict[str, str]:
    """traceparent if there is a valid one, and with it tracestate."""
    parent, state = headers.get("traceparent", ""), headers.get("tracestate", "")
    if not _TRACEPARENT.fullmatch(parent):
        return {}
    good = _TRACESTATE.fullmatch(state)
    return {"traceparent": parent, "tracestate": state} if good else {"traceparent": parent}


#: For replies that are data. A route that answers with a page sets a Content-Security-Policy of its own.
DEFAULTS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class SecurityHeaders:
    """Pure ASGI. A header that a route has set stays as it is."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_defaults(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in DEFAULTS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_defaults)


class RootPath:
    """Pure ASGI, the outermost layer. Behind it ``scope["path"]`` begins with ``scope["root_path"]``.

    A proxy may cut the prefix off or leave it. ``prefix`` is that of the settings; without one, an outer
    application's holds. Redirects name no host and no scheme: behind a proxy, ours are not the caller's.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self.app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        prefix = self._prefix or scope.get("root_path", "").rstrip("/")
        path = scope["path"]
        if path != prefix and not path.startswith(f"{prefix}/"):
            path = prefix + path
        scope["root_path"], scope["path"] = prefix, path

        async def send_relative(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if "location" in headers:
                    headers["location"] = (
                        urlsplit(headers["location"])._replace(scheme="", netloc="").geturl()
                    )
            await send(message)

        await self.app(scope, receive, send_relative)


def route_path(scope: Scope) -> str:
    """Return the path without the prefix."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
