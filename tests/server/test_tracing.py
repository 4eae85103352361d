"""Traces: spans of the stages, and the context that goes on to Triton."""

import asyncio

import pytest
from mcjepa_server.cli import main
from mcjepa_server.engines.fake import FakeEngine
from mcjepa_server.observability import tracing

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"


class Listening(FakeEngine):
    """Notes what a call to another service would carry."""

    seen = None

    async def infer_flow(self, frames, backward, embed=True, quality="fast"):
        self.seen = tracing.outgoing()
        return await super().infer_flow(frames, backward, embed, quality)


def test_without_opentelemetry_the_callers_context_goes_on(serve, pair):
    engine = Listening()
    client = serve(engine)
    headers = {"traceparent": PARENT, "tracestate": "a=1"}
    reply = client.post("/v1/flow", files=pair, headers=headers)
    assert engine.seen == headers
    assert reply.headers["traceparent"] == PARENT
    client.post("/v1/flow", files=pair, headers={"traceparent": "junk", "tracestate": "a=1"})
    assert engine.seen == {}


@pytest.fixture
def spans():
    """OpenTelemetry that keeps its spans in a list."""
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    tracing.start(SimpleSpanProcessor(exporter))
    yield exporter.get_finished_spans
    tracing.stop()


def test_spans_of_a_request(serve, pair, spans):
    engine = Listening()
    client = serve(engine)
    before = len(spans())
    client.post("/v1/flow", files=pair, headers={"traceparent": PARENT})
    found = {span.name: span for span in spans()[before:]}
    assert {"POST request", "decode", "queue", "inference", "encode"} <= found.keys()
    assert {format(span.context.trace_id, "032x") for span in found.values()} == {TRACE_ID}
    assert format(found["POST request"].parent.span_id, "016x") == "b7ad6b7169203331"
    # Triton hears of the span in which it works.
    assert engine.seen["traceparent"].split("-")[2] == format(found["inference"].context.span_id, "016x")


def test_triton_gets_the_context_as_metadata(monkeypatch):
    from mcjepa_server.engines.triton_endpoint import Endpoint

    sent = {}

    async def infer(*args, headers, **kwargs):
        sent.update(headers)
        raise asyncio.CancelledError

    async def call():
        endpoint = Endpoint("127.0.0.1:1")
        monkeypatch.setattr(endpoint._client, "infer", infer)
        import numpy as np

        with tracing.request_span("x", {"traceparent": PARENT}), pytest.raises(asyncio.CancelledError):
            await endpoint.infer("m", "frames", np.zeros((1, 2, 64, 64, 3), np.uint8), ["flow"], 1)
        await endpoint.close()

    asyncio.run(call())
    assert sent == {"traceparent": PARENT}


def test_tracing_without_the_extra_says_what_to_install(monkeypatch, capsys, repository):
    def missing():
        raise ImportError(name="opentelemetry")

    monkeypatch.setattr(tracing, "start", missing)
    monkeypatch.setenv("MCJEPA_TRACING", "true")
    with pytest.raises(SystemExit) as ended:
        main(["--model-repository", str(repository)])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "MCJEPA_TRACING" in said
    assert "./server[otel]" in said


def test_metrics_say_what_is_running(client):
    text = client.get("/metrics").text
    assert 'mcjepa_build_info{engine="fake",model_version="fake-0"' in text
    for name in (
        "process_resident_memory_bytes",
        "process_open_fds",
        "mcjepa_queue_pixels",
        "mcjepa_decoder_failures",
    ):
        assert name in text
