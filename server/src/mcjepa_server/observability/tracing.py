"""Traces: the caller's context always goes on to Triton; spans of our own need the extra ``otel``.

``MCJEPA_TRACING=true`` exports spans by OTLP over HTTP. OpenTelemetry's own variables say where to
(``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_SERVICE_NAME`` and so on).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from mcjepa_server import __version__

if TYPE_CHECKING:  # of the extra
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

#: ``traceparent`` and ``tracestate`` (W3C Trace Context) of the current request.
_incoming: ContextVar[Mapping[str, str] | None] = ContextVar("trace_context", default=None)
_provider: TracerProvider | None = None


def start(processor: SpanProcessor | None = None) -> None:
    """Export spans from now on, by OTLP from a thread of the library, or to the given processor.

    Raises ImportError without the extra ``otel``.
    """
    global _provider
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = Resource({SERVICE_NAME: "mcjepa-server", SERVICE_VERSION: __version__})
    _provider = TracerProvider(resource=named.merge(OTELResourceDetector().detect()))
    _provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))


def stop() -> None:
    """Send the spans that are held, and export no more."""
    global _provider
    if _provider is not None:
        _provider.shutdown()
    _provider = None


@contextmanager
def request_span(name: str, incoming: Mapping[str, str]) -> Iterator[None]:
    """Wrap a whole request that came with these headers."""
    token = _incoming.set(incoming)
    try:
        if _provider is None:
            yield
            return
        from opentelemetry import propagate
        from opentelemetry.trace import SpanKind

        tracer = _provider.get_tracer("mcjepa_server", __version__)
        context = propagate.extract(dict(incoming))
        with tracer.start_as_current_span(name, context=context, kind=SpanKind.SERVER):
            yield
    finally:
        _incoming.reset(token)


@contextmanager
def span(name: str) -> Iterator[None]:
    """Wrap one stage of the current request."""
    if _provider is None:
        yield
        return
    with _provider.get_tracer("mcjepa_server", __version__).start_as_current_span(name):
        yield


def outgoing() -> dict[str, str]:
    """Return the headers of a call to another service, made for the current request."""
    if _provider is None:
        return dict(_incoming.get() or {})
    from opentelemetry import propagate

    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers
