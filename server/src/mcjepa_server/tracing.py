"""Traces: the caller's context goes on to Triton always; spans of our own with the extra ``otel``.

``MCJEPA_TRACING=true`` exports spans by OTLP over HTTP; where to, OpenTelemetry's own variables say
(``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_SERVICE_NAME`` and so on).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

#: ``traceparent`` and ``tracestate`` (W3C Trace Context) that calls made for the current request carry.
_context: ContextVar[Mapping[str, str] | None] = ContextVar("trace_context", default=None)


class Tracer(Protocol):
    """Makes spans, and the headers that tell other services of the current one."""

    def span(self, name: str, parent: Mapping[str, str] | None) -> Any: ...

    def headers(self) -> Mapping[str, str]: ...

    def close(self) -> None: ...


_tracer: Tracer | None = None


def start() -> None:
    """Exports spans from now on. Raises ImportError without the extra ``otel``."""
    global _tracer
    from mcjepa_server.otel import OpenTelemetry

    _tracer = OpenTelemetry()


def use(tracer: Tracer | None) -> None:
    """Another one, or none; what was gathered is sent."""
    global _tracer
    if _tracer is not None:
        _tracer.close()
    _tracer = tracer


@contextmanager
def request_span(name: str, incoming: Mapping[str, str]) -> Iterator[None]:
    """Around a whole request that came with these headers."""
    token = _context.set(incoming)
    try:
        if _tracer is None:
            yield
            return
        with _tracer.span(name, incoming):
            yield
    finally:
        _context.reset(token)


@contextmanager
def span(name: str) -> Iterator[None]:
    """Around one stage of the current request."""
    if _tracer is None:
        yield
        return
    with _tracer.span(name, None):
        yield


def outgoing() -> dict[str, str]:
    """Headers for a call to another service, made for the current request."""
    return dict(_tracer.headers() if _tracer is not None else _context.get() or {})
