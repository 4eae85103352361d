"""The OpenVINO engine on a tiny repository that computes what the fake engine computes."""

import asyncio
import subprocess
import sys

import numpy as np
import onnx
import pytest
from mcjepa_server import Settings, create_app
from mcjepa_server.engine import FlowOutput
from mcjepa_server.engines.agreement import MOTION, check_agreement, moving_texture
from mcjepa_server.engines.fake import FakeEngine
from mcjepa_server.engines.select import make_engine, private_folder
from mcjepa_server.errors import ContractError, EngineError
from mcjepa_server.metrics import Metrics
from starlette.testclient import TestClient

pytest.importorskip("openvino", reason="OpenVINO is not installed")
import openvino
from mcjepa_server.engines import openvino as openvino_engine
from mcjepa_server.engines.openvino import OpenVinoEngine
from mcjepa_server.engines.openvino_bfloat16 import lower_convolutions

needs_bfloat16 = pytest.mark.skipif(
    "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    reason="the processor has no bfloat16",
)


def load(repository, **options):
    return OpenVinoEngine.load(repository, intra_op_threads=1, workers=1, **options)


@pytest.fixture
def engine(repository):
    engine = load(repository)
    yield engine
    asyncio.run(engine.close())


SIGNALLED = """
import asyncio, signal, sys, threading
from pathlib import Path
from mcjepa_server.engines.openvino import OpenVinoEngine

signal.signal(signal.SIGTERM, lambda *_: print("handled"))
engines = [OpenVinoEngine.load(Path(sys.argv[1]), intra_op_threads=1, workers=1)]
asyncio.run(engines[0].close())
other = threading.Thread(target=engines.clear)
other.start()
other.join()
signal.raise_signal(signal.SIGTERM)
"""


def test_a_signal_after_the_engine_has_gone_is_handled(repository):
    """OpenVINO leaves a signal stack behind; see _core."""
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(repository)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.parametrize("backward", [False, True])
def test_flow_equals_the_fake_engine_at_every_size(engine, backward):
    rng = np.random.default_rng(0)
    for shape in ((2, 3, 64, 128, 3), (1, 2, 128, 64, 3), (2, 3, 64, 128, 3)):
        frames = rng.integers(0, 256, shape, np.uint8)
        output = asyncio.run(engine.infer_flow(frames, backward))
        expected = asyncio.run(FakeEngine(engine.contract).infer_flow(frames, backward))
        np.testing.assert_array_equal(output.flow, expected.flow)
        np.testing.assert_allclose(output.embedding, expected.embedding, rtol=1e-5)
        if backward:
            np.testing.assert_array_equal(output.flow_backward, expected.flow_backward)
        else:
            assert output.flow_backward is None


def test_an_answer_survives_the_next_inference(engine):
    first = asyncio.run(engine.infer_flow(np.full((1, 2, 64, 64, 3), 32, np.uint8), False))
    asyncio.run(engine.infer_flow(np.zeros((1, 2, 64, 64, 3), np.uint8), False))
    assert (first.flow[:, :, 0] == 2).all()


def test_embed_equals_the_fake_engine(engine):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    output = asyncio.run(engine.infer_embed(images))
    expected = asyncio.run(FakeEngine(engine.contract).infer_embed(images))
    np.testing.assert_allclose(output.embedding, expected.embedding, rtol=1e-5)


def test_a_failure_inside_is_an_engine_error_and_the_engine_goes_on(engine):
    with pytest.raises(EngineError, match="mcjepa_embed failed in OpenVINO"):
        asyncio.run(engine.infer_embed(np.zeros((1, 7, 7, 3), np.uint8)))
    assert asyncio.run(engine.infer_embed(np.zeros((1, 32, 32, 3), np.uint8))).embedding.shape == (1, 3)


def test_a_cancelled_call_does_not_block_the_next(engine):
    async def scenario():
        frames = np.zeros((1, 2, 64, 64, 3), np.uint8)
        task = asyncio.create_task(engine.infer_flow(frames, False))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return task.cancelled(), (await engine.infer_flow(frames, False)).flow.shape

    assert asyncio.run(scenario()) == (True, (1, 1, 2, 64, 64))


def test_a_graph_that_breaks_the_contract(repository):
    path = repository / "mcjepa_flow" / "1" / "model.onnx"
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 256
    onnx.save(model, path)
    with pytest.raises(ContractError, match=r"mcjepa_flow: input 'frames' is tensor\(uint8\).*256"):
        load(repository)


def test_a_corrupt_graph(repository):
    (repository / "mcjepa_embed" / "1" / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ContractError, match=r"mcjepa_embed/1/model\.onnx cannot be loaded"):
        load(repository)


def first_flow(repository, cache):
    engine = load(repository, cache_dir=cache)
    output = asyncio.run(engine.infer_flow(np.full((1, 2, 64, 64, 3), 32, np.uint8), False))
    asyncio.run(engine.close())
    return output.flow[0, 0, 0, 0, 0]


def test_kept_models_are_used_only_while_they_are_whole_and_of_these_weights(repository, tmp_path):
    cache = tmp_path / "kept"
    cache.mkdir()
    assert first_flow(repository, cache) == first_flow(repository, cache) == 2
    blobs = list(cache.iterdir())
    assert blobs
    for blob in blobs:
        content = blob.read_bytes()
        blob.unlink()
        blob.write_bytes(content[: len(content) // 2])
    assert first_flow(repository, cache) == 2
    path = repository / "mcjepa_flow" / "1" / "model.onnx"
    model = onnx.load(path)
    for constant in model.graph.initializer:
        if constant.name == "factor":
            constant.CopyFrom(onnx.numpy_helper.from_array(np.array([1 / 8, -1 / 8], np.float32), "factor"))
    onnx.save(model, path)
    assert first_flow(repository, cache) == 4


def test_a_cache_that_others_may_write_to_is_not_used(tmp_path):
    assert private_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    (tmp_path / "shared").mkdir(mode=0o777)
    (tmp_path / "shared").chmod(0o777)
    assert private_folder(tmp_path / "shared") is None
    (tmp_path / "file").write_text("")
    assert private_folder(tmp_path / "file" / "below") is None


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=needs_bfloat16)])
def test_served_over_http(repository, encode, picture, precision):
    data = encode(picture(33, 100))
    settings = Settings(
        model_repository=repository, intra_op_threads=1, decode_processes=0, engine="openvino",
        precision=precision,
    )  # fmt: skip
    with TestClient(create_app(settings)) as client:
        expected = "openvino" if precision == "float32" else "openvino-bfloat16"
        assert client.get("/v1/info").json()["engine"] == expected
        reply = client.post("/v1/flow", files={"frame1": ("1", data), "frame2": ("2", data)})
        assert reply.status_code == 200


def automatic(repository, precision="bfloat16"):
    settings = Settings(model_repository=repository, intra_op_threads=1, precision=precision)
    engine = asyncio.run(make_engine(settings, Metrics()))
    asyncio.run(engine.close())
    return engine.name


def test_auto_in_float32_is_onnx_runtime(repository):
    assert automatic(repository, "float32") == "onnxruntime"


@needs_bfloat16
def test_auto_takes_it_for_bfloat16_where_it_agrees_with_onnx_runtime(repository):
    assert automatic(repository) == "openvino-bfloat16"


def test_auto_goes_on_where_the_processor_has_no_bfloat16(repository, monkeypatch, caplog):
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    assert automatic(repository) == "onnxruntime"
    assert "no instructions for bfloat16" in caplog.text


@needs_bfloat16
def test_auto_leaves_it_where_it_disagrees(repository, monkeypatch, caplog):
    infer = OpenVinoEngine.infer_flow

    async def shifted(self, frames, backward):
        output = await infer(self, frames, backward)
        return FlowOutput(output.flow + np.float32(0.2), output.flow_backward, output.embedding)

    monkeypatch.setattr(OpenVinoEngine, "infer_flow", shifted)
    assert automatic(repository) == "onnxruntime"
    assert "differs from that of onnxruntime by 0.283 px" in caplog.text


def test_without_the_package_auto_goes_on_and_openvino_says_what_to_install(repository, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(openvino_engine, "_core", openvino_engine._core.__wrapped__)  # as at the first load
    assert automatic(repository) == "onnxruntime"
    with pytest.raises(ContractError, match=r"pip install 'mcjepa-server\[openvino\]'"):
        asyncio.run(make_engine(Settings(model_repository=repository, engine="openvino"), Metrics()))


def test_embeddings_must_agree_too(engine):
    class Other(FakeEngine):
        async def infer_flow(self, frames, backward):
            output = await super().infer_flow(frames, backward)
            return FlowOutput(output.flow, None, output.embedding[..., ::-1] * [1, 1, 2])

    with pytest.raises(EngineError, match="embeddings differ"):
        asyncio.run(check_agreement(Other(engine.contract), engine))


def test_the_texture_moves():
    dx, dy = MOTION
    first, second = moving_texture(64, 96)[0]
    np.testing.assert_array_equal(second[:dy, dx:], first[-dy:, : 96 - dx])
    assert first.std() > 10


def network():
    """conv + bias -> HSwish -> conv to 2 channels -> sum with a coordinate, as the model's heads are."""
    ops = openvino.opset13
    rng = np.random.default_rng(0)

    def conv(x, channels_in, channels):
        weight = ops.constant(rng.normal(0, 0.2, (channels, channels_in, 3, 3)).astype(np.float32))
        return ops.convolution(x, weight, [1, 1], [1, 1], [1, 1], [1, 1])

    x = ops.parameter([-1, 3, -1, -1], np.float32, name="x")
    bias = ops.constant(rng.normal(size=(1, 8, 1, 1)).astype(np.float32))
    hidden = ops.hswish(ops.add(conv(x, 3, 8), bias))
    flow = ops.add(conv(hidden, 8, 2), ops.constant(np.float32(1000)))
    return openvino.Model([flow], [x])


def types_of(model, kinds):
    """Kind and element type of the model's operations of some kinds, in order."""
    return [
        (op.get_type_name(), op.get_output_element_type(0).get_type_name())
        for op in model.get_ordered_ops()
        if op.get_type_name() in kinds
    ]


def test_only_convolutions_to_features_and_what_is_between_them_are_lowered():
    model = network()
    lower_convolutions(model)
    assert types_of(model, {"Convolution", "Add", "HSwish"}) == [
        ("Convolution", "bf16"), ("Add", "bf16"), ("HSwish", "bf16"), ("Convolution", "f32"), ("Add", "f32"),
    ]  # fmt: skip


def conv1x1(x, weight):
    weight = openvino.opset13.constant(weight[:, :, None, None].astype(np.float32))
    return openvino.opset13.convolution(x, weight, [1, 1], [0, 0], [0, 0], [1, 1])


def test_a_norm_by_convolutions_keeps_its_precision():
    ops = openvino.opset13
    x = ops.parameter([-1, 3, -1, -1], np.float32, name="x")
    hidden = conv1x1(x, np.ones((8, 3)))
    variance = conv1x1(ops.multiply(hidden, hidden), np.full((1, 8), 1 / 8))
    deviation = conv1x1(ops.sqrt(variance), np.ones((8, 1)))
    model = openvino.Model([ops.divide(hidden, deviation)], [x])
    lower_convolutions(model)
    assert types_of(model, {"Convolution", "Multiply", "Sqrt", "Divide"}) == [
        ("Convolution", "bf16"), ("Multiply", "f32"), ("Convolution", "f32"), ("Sqrt", "f32"),
        ("Convolution", "f32"), ("Divide", "f32"),
    ]  # fmt: skip


def test_taps_of_displacements_keep_their_precision():
    ops = openvino.opset13
    x = ops.parameter([-1, 8, -1, -1], np.float32, name="x")
    border = ops.constant(np.array([0, 0, 1, 1]))
    taps = ops.pad(conv1x1(x, np.ones((18, 8))), border, border, "constant")
    model = openvino.Model([taps], [x])
    lower_convolutions(model)
    assert types_of(model, {"Convolution"}) == [("Convolution", "f32")]


@needs_bfloat16
def test_lowered_the_model_computes_the_same_but_for_rounding_of_features():
    x = np.random.default_rng(1).normal(size=(2, 3, 16, 24)).astype(np.float32)
    exact, lowered = network(), network()
    lower_convolutions(lowered)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    one, two = (openvino.compile_model(model, "CPU", settings)([x])[0] for model in (exact, lowered))
    gap = np.abs(one - two).max()
    assert 0 < gap < 0.05  # of values near 1000, which bfloat16 knows to 4
