"""The OpenVINO engine on a tiny repository that computes what the fake engine computes."""

import asyncio
import subprocess
import sys

import numpy as np
import onnx
import pytest
from mcjepa_server import Settings, create_app
from mcjepa_server.engines.factory import make_engine, private_folder
from mcjepa_server.engines.fake import FakeEngine
from mcjepa_server.errors import ContractError, EngineError
from mcjepa_server.observability.metrics import Metrics
from starlette.testclient import TestClient

pytest.importorskip("openvino", reason="OpenVINO is not installed")
from mcjepa_server.engines import openvino as openvino_engine
from mcjepa_server.engines.openvino import OpenVinoEngine


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


def test_served_over_http(repository, encode, picture):
    data = encode(picture(33, 100))
    settings = Settings(
        model_repository=repository, intra_op_threads=1, decode_processes=0, engine="openvino"
    )
    with TestClient(create_app(settings)) as client:
        assert client.get("/v1/info").json()["engine"] == "openvino"
        reply = client.post("/v1/flow", files={"frame1": ("1", data), "frame2": ("2", data)})
        assert reply.status_code == 200


def automatic(repository):
    engine = asyncio.run(make_engine(Settings(model_repository=repository, intra_op_threads=1), Metrics()))
    asyncio.run(engine.close())
    return engine.name


def test_auto_is_onnx_runtime(repository):
    assert automatic(repository) == "onnxruntime"


def test_without_the_package_auto_goes_on_and_openvino_says_what_to_install(repository, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(openvino_engine, "_core", openvino_engine._core.__wrapped__)  # as at the first load
    assert automatic(repository) == "onnxruntime"
    with pytest.raises(ContractError, match=r"'./server\[openvino\]'"):
        asyncio.run(make_engine(Settings(model_repository=repository, engine="openvino"), Metrics()))
