"""OpenTelemetry behind :mod:`mcjepa_server.tracing`. Imported only where tracing is on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind

from mcjepa_server.version import __version__


class OpenTelemetry:
    """Spans by OTLP over HTTP, or to the given processor; sent from a thread of the library's own."""

    def __init__(self, processor: SpanProcessor | None = None) -> None:
        named = Resource({SERVICE_NAME: "mcjepa-server", SERVICE_VERSION: __version__})
        self._provider = TracerProvider(resource=named.merge(OTELResourceDetector().detect()))
        self._provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("mcjepa_server", __version__)

    def span(self, name: str, parent: Mapping[str, str] | None) -> AbstractContextManager[Any]:
        if parent is None:
            return self._tracer.start_as_current_span(name)
        return self._tracer.start_as_current_span(
            name, context=propagate.extract(dict(parent)), kind=SpanKind.SERVER
        )

    def headers(self) -> Mapping[str, str]:
        carrier: dict[str, str] = {}
        if trace.get_current_span().get_span_context().is_valid:
            propagate.inject(carrier)
        return carrier

    def close(self) -> None:
        self._provider.shutdown()
