"""The ONNX Runtime engine on a tiny repository that computes what the fake engine computes."""

import asyncio
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from mcjepa_server import Settings, create_app
from mcjepa_server.engines.fake import FakeEngine
from mcjepa_server.engines.onnxruntime import OnnxRuntimeEngine
from mcjepa_server.errors import ContractError, EngineError
from onnx import TensorProto
from starlette.testclient import TestClient


def load(repository, threads=1, workers=1):
    return OnnxRuntimeEngine.load(repository, intra_op_threads=threads, workers=workers)


@pytest.fixture
def engine(repository):
    engine = load(repository)
    yield engine
    asyncio.run(engine.close())


@pytest.mark.parametrize("backward", [False, True])
def test_flow_equals_the_fake_engine(engine, backward):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 3, 64, 128, 3), np.uint8)
    output = asyncio.run(engine.infer_flow(frames, backward))
    expected = asyncio.run(FakeEngine(engine.contract).infer_flow(frames, backward))
    np.testing.assert_array_equal(output.flow, expected.flow)
    np.testing.assert_allclose(output.embedding, expected.embedding, rtol=1e-5)
    if backward:
        np.testing.assert_array_equal(output.flow_backward, expected.flow_backward)
    else:
        assert output.flow_backward is None


def test_embed_equals_the_fake_engine(engine):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 32, 32, 3), np.uint8)
    output = asyncio.run(engine.infer_embed(images))
    expected = asyncio.run(FakeEngine(engine.contract).infer_embed(images))
    np.testing.assert_allclose(output.embedding, expected.embedding, rtol=1e-5)


def test_a_failure_inside_is_an_engine_error(engine):
    with pytest.raises(EngineError, match="mcjepa_embed failed in ONNX Runtime"):
        asyncio.run(engine.infer_embed(np.zeros((1, 7, 7, 3), np.uint8)))


def test_served_over_http(repository, encode, picture):
    image = picture(33, 100)
    data = encode(image)
    settings = Settings(model_repository=repository, intra_op_threads=1, engine="onnxruntime")
    with TestClient(create_app(settings)) as client:
        assert client.get("/readyz").status_code == 200
        info = client.get("/v1/info").json()
        assert info["engine"] == "onnxruntime"
        assert info["model"]["weights_sha256"] == "ab" * 32
        reply = client.post("/v1/flow", files={"frame1": ("1", data), "frame2": ("2", data)})
        flow = np.frombuffer(reply.content, "<f4", offset=12).reshape(33, 100, 2)
        np.testing.assert_array_equal(flow, image[..., :2] * np.array([1 / 16, -1 / 16], np.float32))
        vector = client.post("/v1/embeddings", files={"images": ("1", data)}).json()["data"][0]["embedding"]
        assert np.linalg.norm(vector) == pytest.approx(1)


def edit(repository, name, change):
    path = repository / name / "1" / "model.onnx"
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, path)


def rename_output(graph):
    for node in graph.node:
        node.output[:] = ["motion" if name == "flow" else name for name in node.output]
    graph.output[0].name = "motion"


def rename_input(graph):
    graph.input[0].name = "pixels_in"
    graph.node[0].input[0] = "pixels_in"


def float_input(graph):
    graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def fixed_height(graph):
    graph.input[0].type.tensor_type.shape.dim[2].dim_value = 256


def extra_input(graph):
    graph.input.append(onnx.helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename_output, "no output 'flow', only motion"),
        (rename_input, "inputs are pixels_in, expected frames"),
        (float_input, r"input 'frames' is tensor\(float\)"),
        (fixed_height, r"input 'frames' is tensor\(uint8\).*256"),
        (extra_input, "inputs are frames, scale"),
    ],
)
def test_a_graph_that_breaks_the_contract(repository, change, message):
    edit(repository, "mcjepa_flow", change)
    with pytest.raises(ContractError, match=f"mcjepa_flow: .*{message}"):
        load(repository)


def test_an_embedding_of_another_size(repository, write_config):
    for name in ("mcjepa_flow", "mcjepa_flow_bidirectional", "mcjepa_embed"):
        write_config(repository / name, name, embedding_size="5")
    with pytest.raises(ContractError, match=r"output 'embedding' is .*3\], expected .*5\]"):
        load(repository)


def test_a_missing_graph(repository):
    (repository / "mcjepa_embed" / "1" / "model.onnx").unlink()
    with pytest.raises(ContractError, match=r"mcjepa_embed/1/model\.onnx is missing"):
        load(repository)


def test_a_corrupt_graph(repository):
    (repository / "mcjepa_embed" / "1" / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ContractError, match=r"mcjepa_embed/1/model\.onnx cannot be loaded"):
        load(repository)


def test_a_cancelled_call_does_not_block_the_next(engine):
    async def scenario():
        frames = np.zeros((1, 2, 64, 64, 3), np.uint8)
        task = asyncio.create_task(engine.infer_flow(frames, False))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return task.cancelled(), (await engine.infer_flow(frames, False)).flow.shape

    assert asyncio.run(scenario()) == (True, (1, 1, 2, 64, 64))


class Spy:
    """A session that notes how many threads it has when it is run."""

    def __init__(self, session, used):
        self._session, self._used = session, used

    def run(self, *arguments):
        self._used.append(self._session.get_session_options().intra_op_num_threads)
        return self._session.run(*arguments)


def spy(engine):
    used = []
    for sessions in ("_alone", "_beside", "_single"):
        spies = {name: Spy(session, used) for name, session in getattr(engine, sessions).items()}
        setattr(engine, sessions, spies)
    return used


def test_a_call_has_all_threads_where_it_is_alone_and_its_share_beside_others(repository):
    engine = load(repository, threads=5, workers=2)
    used = spy(engine)
    frames = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64, 3), np.uint8)

    async def scenario():
        alone = await engine.infer_flow(frames, True)
        both = await asyncio.gather(engine.infer_flow(frames, True), engine.infer_flow(frames, True))
        again = await engine.infer_flow(frames, True)
        await engine.close()
        return alone, *both, again

    first, *others = asyncio.run(scenario())
    assert sorted(used) == [2, 5, 5, 5]
    assert used[0] == used[3] == 5
    for other in others:
        np.testing.assert_array_equal(other.flow_backward, first.flow_backward)


def test_one_image_has_one_thread_and_a_batch_has_all(repository):
    engine = load(repository, threads=5, workers=2)
    used = spy(engine)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    batch = asyncio.run(engine.infer_embed(images)).embedding
    one = asyncio.run(engine.infer_embed(images[:1])).embedding
    asyncio.run(engine.close())
    assert used == [5, 1]
    np.testing.assert_array_equal(one, batch[:1])


def test_a_call_that_fails_or_is_cancelled_is_no_longer_beside(repository):
    engine = load(repository, threads=2, workers=2)
    used = spy(engine)
    frames = np.zeros((1, 2, 64, 64, 3), np.uint8)

    async def scenario():
        with pytest.raises(EngineError):
            await engine.infer_embed(np.zeros((1, 7, 7, 3), np.uint8))
        task = asyncio.create_task(engine.infer_flow(frames, False))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        del used[:]
        await engine.infer_flow(frames, False)
        await engine.close()

    asyncio.run(scenario())
    assert used == [2]


@pytest.mark.parametrize(("threads", "workers"), [(1, 1), (2, 1), (1, 2)])
def test_models_are_loaded_once_where_there_is_nothing_to_share(repository, threads, workers):
    engine = load(repository, threads, workers)
    assert engine._alone is engine._beside
    asyncio.run(engine.close())


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads /proc of Linux")
def test_memory_that_a_call_took_is_given_back_once_it_is_idle(engine):
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    used = spy(engine)
    frames = np.zeros((1, 8, 512, 512, 3), np.uint8)  # 25 MB as float32, and 15 MB of flow

    async def scenario():
        await engine.infer_flow(frames, False)
        busy = asyncio.create_task(engine.infer_flow(frames, False))
        await asyncio.sleep(0)
        await engine.give_back()  # not now
        await busy
        runs, before = [len(used)], resident()
        for _ in range(2):  # the second time there is nothing left
            await engine.give_back()
            runs.append(len(used))
        return before - resident(), runs

    freed, runs = asyncio.run(scenario())
    assert freed > 20e6
    assert runs == [2, 3, 3]
