"""The Triton engine against a gRPC server in this process that answers, or fails, as Triton does."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import grpc
import numpy as np
import pytest
from mcjepa_server import Settings
from mcjepa_server.engines.contract import EMBED, FLOW, FLOW_BIDIRECTIONAL, MODEL_NAMES, NOT_MEASURED
from mcjepa_server.engines.factory import make_engine
from mcjepa_server.engines.fake import FAKE_CONTRACT
from mcjepa_server.engines.triton import TritonEngine
from mcjepa_server.errors import ContractError, DeadlineExceeded, EngineError, NotReady, Overloaded
from mcjepa_server.observability.metrics import Metrics
from mcjepa_server.observability.timing import time_limit
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

FRAMES = np.zeros((1, 2, 64, 128, 3), np.uint8)
NEVER_S = 3600.0  # between probes, so that only what a test does is seen


def model_config(name, version="fake-0"):
    """As Triton reports it."""
    size, side = FAKE_CONTRACT.embedding_size, FAKE_CONTRACT.embed_image_size
    config = model_config_pb2.ModelConfig(name=name, backend="python", max_batch_size=4)
    given, dims = ("images", [side, side, 3]) if name == EMBED else ("frames", [-1, -1, -1, 3])
    config.input.add(name=given, data_type="TYPE_UINT8", dims=dims)
    if name == EMBED:
        config.output.add(name="embedding", data_type="TYPE_FP32", dims=[size])
    else:
        config.output.add(name="embedding", data_type="TYPE_FP32", dims=[-1, size])
        config.output.add(name="flow", data_type="TYPE_FP32", dims=[-1, 2, -1, -1])
    if name == FLOW_BIDIRECTIONAL:
        config.output.add(name="flow_backward", data_type="TYPE_FP32", dims=[-1, 2, -1, -1])
    values = {
        "contract_version": "1",
        "model_version": version,
        "weights_sha256": "0" * 64,
        "stride": "64",
        "mean": "0.485,0.456,0.406",
        "std": "0.229,0.224,0.225",
        "embedding_size": str(size),
        "embed_image_size": str(side),
        "training_summary": FAKE_CONTRACT.training_summary,
        "license": FAKE_CONTRACT.license,
    }
    for key, value in values.items():
        config.parameters[key].string_value = value
    return config


class Triton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers zeros; ``fault`` is a status and a message to fail with, or "hang"."""

    def __init__(self):
        self.fault = None
        self.ready = True
        self.configs = {name: model_config(name) for name in MODEL_NAMES}
        self.requests = []
        self.cancelled = asyncio.Event()

    async def ModelReady(self, request, context):
        return service_pb2.ModelReadyResponse(ready=self.ready and request.name in self.configs)

    async def ModelConfig(self, request, context):
        return service_pb2.ModelConfigResponse(config=self.configs[request.name])

    async def ModelInfer(self, request, context):
        self.requests.append(request)
        if self.fault == "hang":
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        if self.fault is not None:
            await context.abort(*self.fault)
        return self.answer(request)

    def answer(self, request):
        b, n, h, w, _ = request.inputs[0].shape
        shapes = {"flow": (b, n - 1, 2, h, w), "flow_backward": (b, n - 1, 2, h, w), "embedding": (b, n, 8)}
        reply = service_pb2.ModelInferResponse(model_name=request.model_name)
        for output in request.outputs:
            array = np.zeros(shapes[output.name], np.float32)
            reply.outputs.add(name=output.name, datatype="FP32", shape=array.shape)
            reply.raw_output_contents.append(array.tobytes())
        return reply


@asynccontextmanager
async def serving(triton, port=0):
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", server
    finally:
        await server.stop(0)


@asynccontextmanager
async def connected(*tritons):
    """An engine on these servers, in order."""
    async with asyncio.timeout(60), AsyncExitStack() as stack:
        addresses = [(await stack.enter_async_context(serving(triton)))[0] for triton in tritons]
        engine = await TritonEngine.connect(addresses, NEVER_S, Metrics())
        stack.push_async_callback(engine.close)
        yield engine


def test_takes_the_contract_and_the_answers():
    async def run():
        triton = Triton()
        async with connected(triton) as engine:
            expected = {"smallest_side": 128, "qualities": {"fast": NOT_MEASURED}}
            assert engine.contract == replace(FAKE_CONTRACT, **expected)
            both = await engine.infer_flow(FRAMES, backward=True)
            one = await engine.infer_flow(FRAMES, backward=False)
            bare = await engine.infer_flow(FRAMES, backward=False, embed=False)
        assert both.flow.shape == both.flow_backward.shape == (1, 1, 2, 64, 128)
        assert one.flow_backward is None
        assert one.embedding.shape == (1, 2, 8)
        assert bare.embedding is None
        assert [request.model_name for request in triton.requests] == [FLOW_BIDIRECTIONAL, FLOW, FLOW]
        assert [output.name for output in triton.requests[-1].outputs] == ["flow"]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        ("UNAVAILABLE", "[request id: 1] Exceeds maximum queue size", Overloaded),
        ("UNAVAILABLE", "Request timeout expired", DeadlineExceeded),
        ("UNAVAILABLE", "Server is stopping, scheduler for model has stopped", NotReady),
        ("NOT_FOUND", "Request for unknown model: 'mcjepa_flow' has no available versions", NotReady),
        ("CANCELLED", "", NotReady),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineExceeded),
        ("INTERNAL", "secret: /models/mcjepa_flow/1", EngineError),
        ("INVALID_ARGUMENT", "unexpected shape", EngineError),
        ("UNKNOWN", "", EngineError),
    ],
)
def test_every_failure_of_triton_has_its_status(code, message, expected):
    async def run():
        triton = Triton()
        async with connected(triton) as engine:
            triton.fault = (grpc.StatusCode[code], message)
            with pytest.raises(expected) as caught:
                await engine.infer_flow(FRAMES, backward=False)
        assert type(caught.value) is expected
        assert "secret" not in caught.value.message

    asyncio.run(run())


@pytest.mark.parametrize("message", ["Server is stopping", "Exceeds maximum queue size"])
def test_what_one_triton_refuses_the_other_does(message):
    async def run():
        bad, good = Triton(), Triton()
        async with connected(bad, good) as engine:
            bad.fault = (grpc.StatusCode.UNAVAILABLE, message)
            for _ in range(4):
                await engine.infer_flow(FRAMES, backward=False)
        assert len(good.requests) == 4
        assert len(bad.requests) >= 1

    asyncio.run(run())


def test_a_failure_of_the_computation_is_not_tried_elsewhere():
    async def run():
        bad, good = Triton(), Triton()
        async with connected(good, bad) as engine:
            bad.fault = (grpc.StatusCode.INTERNAL, "out of memory")
            with pytest.raises(EngineError):
                await engine.infer_flow(FRAMES, backward=False)
            assert not good.requests

    asyncio.run(run())


def test_requests_go_to_every_triton_in_turn():
    async def run():
        tritons = [Triton(), Triton(), Triton()]
        async with connected(*tritons) as engine:
            for _ in range(6):
                await engine.infer_flow(FRAMES, backward=False)
        assert [len(triton.requests) for triton in tritons] == [2, 2, 2]

    asyncio.run(run())


def test_an_address_that_is_given_again_is_another_connection():
    """Behind one address there may be several Tritons, over which connections are spread."""

    class Seen(Triton):
        peers = ()

        async def ModelInfer(self, request, context):
            self.peers += (context.peer(),)
            return await super().ModelInfer(request, context)

    async def run():
        triton = Seen()
        async with asyncio.timeout(60), serving(triton) as (address, _):
            engine = await TritonEngine.connect([address] * 3, NEVER_S, Metrics())
            for _ in range(6):
                await engine.infer_flow(FRAMES, backward=False)
            await engine.close()
        assert len(set(triton.peers)) == 3
        assert triton.peers[:3] == triton.peers[3:]

    asyncio.run(run())


def test_the_time_left_goes_along_and_cancelling_arrives():
    async def run():
        triton = Triton()
        async with connected(triton) as engine:
            triton.fault = "hang"
            with pytest.raises(TimeoutError):
                async with time_limit(0.3):
                    await engine.infer_flow(FRAMES, backward=False)
            await triton.cancelled.wait()
        assert 0 < triton.requests[0].parameters["timeout"].int64_param <= 300_000

    asyncio.run(run())


def test_other_weights_after_a_lost_connection_are_refused_before_any_inference():
    async def run():
        first, second = Triton(), Triton()
        second.configs = {name: model_config(name, "fake-1") for name in MODEL_NAMES}
        async with asyncio.timeout(60), serving(first) as (url, server):
            engine = await TritonEngine.connect([url], NEVER_S, Metrics())
            await engine.infer_flow(FRAMES, backward=False)
            await server.stop(0)
            async with serving(second, url.rpartition(":")[2]):
                with pytest.raises(NotReady, match="model_version is fake-1, expected fake-0"):
                    await engine.infer_flow(FRAMES, backward=False)
                with pytest.raises(NotReady, match="expected fake-0"):
                    await engine.ready()
            assert not second.requests
            async with serving(first, url.rpartition(":")[2]):
                assert await engine.ready()
                await engine.infer_flow(FRAMES, backward=False)
            await engine.close()

    asyncio.run(run())


class Restarting(Triton):
    """Loses the first inference, as a connection does whose other end is gone; ``next`` comes after."""

    def __init__(self, version):
        super().__init__()
        self.next = {name: model_config(name, version) for name in MODEL_NAMES}

    async def ModelInfer(self, request, context):
        lost, self.configs = self.configs is not self.next, self.next
        if lost:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        return await super().ModelInfer(request, context)


def test_a_call_on_a_connection_that_was_lost_unnoticed_is_made_again():
    async def run():
        triton = Restarting("fake-0")
        async with connected(triton) as engine:
            await engine.infer_flow(FRAMES, backward=False)
        assert len(triton.requests) == 1

    asyncio.run(run())


def test_but_not_on_other_weights():
    async def run():
        triton = Restarting("fake-1")
        async with connected(triton) as engine:
            with pytest.raises(NotReady, match="model_version is fake-1, expected fake-0"):
                await engine.infer_flow(FRAMES, backward=False)
        assert not triton.requests

    asyncio.run(run())


def test_a_triton_that_loses_every_call_is_asked_twice():
    async def run():
        triton = Triton()
        async with connected(triton) as engine:
            triton.fault = (grpc.StatusCode.UNAVAILABLE, "Socket closed")
            with pytest.raises(NotReady, match="Socket closed"):
                await engine.infer_flow(FRAMES, backward=False)
        assert len(triton.requests) == 2

    asyncio.run(run())


def test_a_triton_with_other_weights_than_the_first_is_left_out():
    async def run():
        first, second = Triton(), Triton()
        second.configs = {name: model_config(name, "fake-1") for name in MODEL_NAMES}
        async with connected(first, second) as engine:
            for _ in range(4):
                await engine.infer_flow(FRAMES, backward=False)
        assert len(first.requests) == 4
        assert not second.requests

    asyncio.run(run())


def _wrong_dims(config):
    config.output[1].dims[1] = 3


def _wrong_type(config):
    config.input[0].data_type = model_config_pb2.TYPE_FP32


def _no_flow(config):
    del config.output[1]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_wrong_dims, r"tensor 'flow' is TYPE_FP32 \[-1, 3, -1, -1\], expected TYPE_FP32 \[-1, 2, -1, -1\]"),
        (_wrong_type, "tensor 'frames' is TYPE_FP32"),
        (_no_flow, "there is no tensor 'flow'"),
        (lambda config: config.parameters.pop("stride"), "parameter 'stride' is missing"),
    ],
)
def test_what_does_not_keep_the_contract_is_named(spoil, message):
    async def run():
        triton = Triton()
        spoil(triton.configs[FLOW])
        with pytest.raises(NotReady, match=message):
            async with connected(triton):
                pass

    asyncio.run(run())


def test_models_that_are_not_ready_and_addresses_without_a_triton_are_named():
    async def run():
        triton = Triton()
        triton.ready = False
        async with serving(triton) as (url, _):
            with pytest.raises(NotReady, match=r"mcjepa_flow is not ready; 127\.0\.0\.1:1: "):
                await TritonEngine.connect([url, "127.0.0.1:1"], NEVER_S, Metrics())

    asyncio.run(run())


def test_only_the_version_that_was_asked_for_is_served():
    async def run():
        async with serving(Triton()) as (url, _):
            settings = Settings(triton_urls=(url,), model_version="fake-2")
            with pytest.raises(ContractError, match="model_version is fake-0, expected fake-2"):
                await make_engine(settings, Metrics())

    asyncio.run(run())


def test_settings_of_triton(monkeypatch):
    monkeypatch.setenv("MCJEPA_TRITON_URLS", "a:1, b:2")
    monkeypatch.setenv("MCJEPA_SHAPE_BUCKETS", "1024x448,640x384")
    settings = Settings()
    assert settings.triton_urls == ("a:1", "b:2")
    assert settings.shape_buckets == ((1024, 448), (640, 384))
    assert settings.uses_triton
    assert settings.max_concurrency == 32
    assert not Settings(engine="onnxruntime").uses_triton
    with pytest.raises(ValueError, match="'1024' is not WIDTHxHEIGHT"):
        Settings(shape_buckets="1024")


def test_a_bucket_off_the_stride_is_a_reason_not_to_be_ready(serve, check_problem):
    client = serve(shape_buckets="100x64")
    detail = check_problem(client.get("/readyz"), 503, "not_ready")["detail"]
    assert "100x64 is not a multiple of the stride 64" in detail
    client.portal.call(client.app.state.service.check)
    assert "100x64" in client.get("/readyz").json()["detail"]


def test_metrics_show_the_buckets_and_what_padding_costs(serve, pair):
    client = serve(shape_buckets="128x64")
    assert client.post("/v1/flow", files=pair).status_code == 200
    assert client.post("/v1/analyze", files=[("frames", file) for file in pair.values()]).status_code == 200
    text = client.get("/metrics").text
    assert 'mcjepa_flow_shapes_total{bucket="128x64"} 2.0' in text
    overhead = 128 * 64 / (80 * 48) - 1
    assert f"mcjepa_padding_overhead_sum {2 * overhead}" in text


@pytest.mark.parametrize("backward", [False, True])
def test_a_better_quality_is_a_model_of_its_own(backward):
    triton = Triton()
    triton.configs["mcjepa_flow_best"] = config = model_config("mcjepa_flow_best")
    config.parameters["error_px"].string_value = "1.55"
    config.parameters["relative_cost"].string_value = "much"  # it informs only

    async def scenario():
        async with connected(triton) as engine:
            assert engine.contract.qualities == {"fast": (None, None), "best": (1.55, None)}
            return await engine.infer_flow(FRAMES, backward, quality="best")

    output = asyncio.run(scenario())
    (request,) = triton.requests
    assert request.model_name == "mcjepa_flow_best"
    b, n, h, w, _ = FRAMES.shape
    # there is no model of both directions: the clip goes along in reverse
    assert list(request.inputs[0].shape) == [b * (1 + backward), n, h, w, 3]
    assert output.flow.shape == (b, n - 1, 2, h, w)
    assert (output.flow_backward is not None) == backward


def test_a_triton_that_lacks_a_quality_of_the_first_is_left_out():
    first, second = Triton(), Triton()
    first.configs["mcjepa_flow_best"] = model_config("mcjepa_flow_best")

    async def scenario():
        async with connected(first, second) as engine:
            return [endpoint.reason for endpoint in engine._endpoints]

    reasons = asyncio.run(scenario())
    assert reasons[0] is None
    assert "best" in reasons[1]
