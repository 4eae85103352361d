"""The ONNX Runtime engine on a tiny repository that computes what the fake engine computes."""

import asyncio
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from mcjepa_server import Settings, create_app
from mcjepa_server.engines.fake import FakeEngine
from mcjepa_server.engines.onnxruntime import OnnxRuntimeEngine
from mcjepa_server.engines.ort_sessions import QualitySessions, Sessions
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
    image = picture(133, 300)
    data = encode(image)
    settings = Settings(model_repository=repository, intra_op_threads=1, engine="onnxruntime")
    with TestClient(create_app(settings)) as client:
        assert client.get("/readyz").status_code == 200
        info = client.get("/v1/info").json()
        assert info["engine"] == "onnxruntime"
        assert info["model"]["weights_sha256"] == "ab" * 32
        reply = client.post("/v1/flow", files={"frame1": ("1", data), "frame2": ("2", data)})
        flow = np.frombuffer(reply.content, "<f4", offset=12).reshape(133, 300, 2)
        np.testing.assert_array_equal(flow, image[..., :2] * np.array([1 / 16, -1 / 16], np.float32))
        vector = client.post("/v1/embeddings", files={"images": ("1", data)}).json()["data"][0]["embedding"]
        assert np.linalg.norm(vector) == pytest.approx(1)


def edit(path, change):
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
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = 256


def extra_input(graph):
    graph.input.append(onnx.helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1]))


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("match", rename_output, "no output 'flow', only motion"),
        ("frame", rename_input, "inputs are pixels_in, expected frames"),
        ("frame", float_input, r"input 'frames' is tensor\(float\)"),
        ("frame", fixed_height, r"input 'frames' is tensor\(uint8\).*256"),
        ("frame", extra_input, "inputs are frames, scale"),
        ("match", extra_input, "inputs are start_map_8, .*, end_grey, scale"),
    ],
)
def test_a_graph_that_breaks_the_contract(repository, part, change, message):
    edit(repository / "mcjepa_flow" / "1" / f"{part}.onnx", change)
    with pytest.raises(ContractError, match=f"{part}: .*{message}"):
        load(repository)


def test_an_embedding_of_another_size(repository, write_config):
    for name in [folder.name for folder in repository.iterdir()]:
        write_config(repository / name, name, embedding_size="5")
    with pytest.raises(ContractError, match=r"output 'embedding' is .*3\], expected .*5\]"):
        load(repository)


@pytest.mark.parametrize("file", ["mcjepa_embed/1/embed.onnx", "mcjepa_flow/1/frame.onnx"])
def test_a_missing_graph(repository, file):
    (repository / file).unlink()
    with pytest.raises(ContractError, match=f"{file} is missing"):
        load(repository)


def test_the_whole_models_are_for_others(repository):
    for name in ("mcjepa_flow", "mcjepa_flow_bidirectional", "mcjepa_embed"):
        (repository / name / "1" / "model.onnx").write_bytes(b"not a graph")
    asyncio.run(load(repository).close())


def test_a_corrupt_graph(repository):
    (repository / "mcjepa_embed" / "1" / "embed.onnx").write_bytes(b"not a graph")
    with pytest.raises(ContractError, match=r"mcjepa_embed/1/embed\.onnx cannot be loaded"):
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
    """Sessions that note what runs, on how many threads, and how many runs there are meanwhile."""

    def __init__(self, engine):
        self.runs, self.at_once = [], []
        self.meeting = None  # where runs wait for each other
        self.delay_s = 0.0
        self._now = 0
        self._lock = threading.Lock()
        sessions = engine._sessions
        fast = vars(sessions.qualities["fast"]).items()
        fast = QualitySessions(**{name: session and self._noting(session) for name, session in fast})
        frame, embed = self._noting(sessions.frame), self._noting(sessions.embed)
        engine._sessions = Sessions(frame, {"fast": fast}, embed)

    def _noting(self, session):
        threads = session.get_session_options().intra_op_num_threads

        def noting(run, wanted, *arguments):  # names of outputs, or bound inputs and outputs
            outputs = wanted if isinstance(wanted, list) else [o.name for o in session.get_outputs()]
            with self._lock:
                self._now += 1
                self.runs.append((outputs[-1], threads))
                self.at_once.append(self._now)
            try:
                if self.meeting is not None:
                    self.meeting.wait()
                time.sleep(self.delay_s)
                return run(wanted, *arguments)
            finally:
                with self._lock:
                    self._now -= 1

        names = ("run", "run_with_ort_values", "run_with_iobinding")
        runs = {name: partial(noting, getattr(session, name)) for name in names}
        return SimpleNamespace(io_binding=session.io_binding, **runs)


@pytest.mark.parametrize("backward", [False, True])
def test_a_better_quality_matches_the_details_of_the_frames_too(engine, backward, clip):
    assert list(engine.contract.qualities) == ["fast", "best"]
    fast, best = (asyncio.run(engine.infer_flow(clip, backward, quality=q)) for q in ("fast", "best"))
    np.testing.assert_array_equal(best.flow, 2 * fast.flow)
    np.testing.assert_array_equal(best.embedding, fast.embedding)
    if backward:
        np.testing.assert_array_equal(best.flow_backward, 2 * fast.flow_backward)


def test_a_better_quality_is_opened_when_it_is_first_asked_for(engine, clip):
    assert list(engine._sessions.qualities) == ["fast"]
    asyncio.run(engine.infer_flow(clip[:, :2], False, quality="best"))
    opened = engine._sessions.qualities["best"]
    asyncio.run(engine.infer_flow(clip[:, :2], False, quality="best"))
    assert engine._sessions.qualities["best"] is opened


@pytest.mark.parametrize("part", ["details_best.onnx", "match_best.onnx"])
def test_a_quality_without_its_parts_is_named_at_the_start(repository, part):
    (repository / "mcjepa_flow" / "1" / part).unlink()
    with pytest.raises(ContractError, match=part):
        load(repository)


@pytest.fixture
def clip():
    return np.random.default_rng(0).integers(0, 256, (1, 6, 64, 64, 3), np.uint8)


def test_each_frame_of_a_clip_is_encoded_once(repository, clip):
    engine = load(repository, threads=5, workers=2)
    spy = Spy(engine)
    output = asyncio.run(engine.infer_flow(clip, True))
    assert spy.runs.count(("small", 4)) == 6  # one of five threads is that of the other lane
    assert spy.runs.count(("embedding", 4)) == 6
    flows = [run for run in spy.runs if run[0] == "flow"]
    assert len(flows) == len(spy.runs) - 12 == 2 * 5
    assert set(flows[:-1]) == {("flow", 4)}  # the last one may be alone
    expected = asyncio.run(FakeEngine(engine.contract).infer_flow(clip, True))
    np.testing.assert_array_equal(output.flow_backward, expected.flow_backward)
    asyncio.run(engine.close())


@pytest.mark.parametrize("backward", [False, True])
def test_frames_are_encoded_one_ahead(repository, clip, backward):
    engine = load(repository, threads=1, workers=1)
    spy = Spy(engine)
    output = asyncio.run(engine.infer_flow(clip[:, :4], backward, embed=False))
    asyncio.run(engine.close())
    frame, flows = ["small"], ["flow", "flow"] if backward else ["flow"]
    assert [name for name, _ in spy.runs] == 3 * frame + flows + frame + 2 * flows
    expected = asyncio.run(FakeEngine(engine.contract).infer_flow(clip[:, :4], backward))
    np.testing.assert_array_equal(output.flow, expected.flow)


def test_a_pair_that_is_alone_has_all_threads_and_beside_others_its_lane(repository, clip):
    engine = load(repository, threads=5, workers=2)
    spy = Spy(engine)

    async def scenario():
        alone = await engine.infer_flow(clip[:, :2], False, embed=False)
        await asyncio.gather(*(engine.infer_flow(clip[:, :2], False, embed=False) for _ in range(2)))
        again = await engine.infer_flow(clip[:, :2], False, embed=False)
        await engine.close()
        return alone, again

    alone, again = asyncio.run(scenario())
    np.testing.assert_array_equal(alone.flow, again.flow)
    assert alone.embedding is None
    assert spy.runs[:3] == spy.runs[-3:] == [("small", 4), ("small", 4), ("flow", 5)]
    assert ("flow", 4) in spy.runs[3:-3]


def test_frames_and_flows_of_a_caller_that_is_alone_go_on_at_once(repository, clip):
    engine = load(repository, threads=2, workers=1)
    spy = Spy(engine)
    spy.meeting = threading.Barrier(2, timeout=60)  # breaks where one run waits for the end of the other
    asyncio.run(engine.infer_flow(clip[:, :2], True, embed=False))
    asyncio.run(engine.close())
    assert spy.runs == [("small", 1)] * 2 + [("flow", 1)] * 2


def test_two_callers_have_one_run_each(repository, clip):
    engine = load(repository, threads=4, workers=3)
    spy = Spy(engine)
    spy.delay_s = 0.005  # so that more runs, if there were any, would meet

    async def scenario():
        await asyncio.gather(*(engine.infer_flow(clip, False, embed=False) for _ in range(2)))
        await engine.close()

    asyncio.run(scenario())
    assert max(spy.at_once[6:10]) <= 2  # the first began with a run in each of three lanes


def test_a_batch_of_images_is_shared_by_the_lanes(repository):
    engine = load(repository, threads=2, workers=1)
    spy = Spy(engine)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    spy.meeting = threading.Barrier(2, timeout=60)  # breaks where one run waits for the end of the other
    batch = asyncio.run(engine.infer_embed(images)).embedding
    spy.meeting = None
    one = asyncio.run(engine.infer_embed(images[:1])).embedding
    asyncio.run(engine.close())
    assert spy.runs == [("embedding", 1)] * 3
    np.testing.assert_array_equal(one, batch[:1])


def test_a_call_that_fails_or_is_cancelled_leaves_its_lanes(repository, clip):
    engine = load(repository, threads=2, workers=2)
    spy = Spy(engine)

    async def scenario():
        with pytest.raises(EngineError):
            await engine.infer_embed(np.zeros((1, 7, 7, 3), np.uint8))
        task = asyncio.create_task(engine.infer_flow(clip, False))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.1)
        del spy.runs[:]
        await engine.infer_flow(clip[:, :2], False, embed=False)
        await engine.close()

    asyncio.run(scenario())
    assert spy.runs == [("small", 1), ("small", 1), ("flow", 2)]


@pytest.mark.parametrize(("threads", "workers"), [(1, 1), (1, 2)])
def test_nothing_is_loaded_twice_for_one_thread(repository, threads, workers):
    engine = load(repository, threads, workers)
    for quality in engine.contract.qualities:
        sessions = engine._sessions.qualities[quality]
        assert sessions.match is sessions.match_alone
    asyncio.run(engine.close())


# In a process of its own: in this one other sessions hold memory of ONNX Runtime's shared arena.
IDLE = """
import asyncio, os, sys
from pathlib import Path
import numpy as np
from mcjepa_server.engines.onnxruntime import OnnxRuntimeEngine

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

engine = OnnxRuntimeEngine.load(Path(sys.argv[1]), intra_op_threads=1, workers=1)
frames = np.zeros((1, 3, 1024, 1024, 3), np.uint8)  # 13 MB each as float32, and 17 MB of flow

async def scenario():
    await engine.infer_flow(frames, False, embed=False)
    busy = asyncio.create_task(engine.infer_flow(frames, False, embed=False))
    await asyncio.sleep(0)
    await engine.trim_memory()  # not now
    await busy
    before = resident()
    await engine.trim_memory()
    print(before - resident())
    await engine.close()

asyncio.run(scenario())
"""


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads /proc of Linux")
def test_memory_that_a_call_took_is_given_back_once_it_is_idle(repository):
    run = subprocess.run(
        [sys.executable, "-c", IDLE, repository], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(run.stdout) > 20e6


def test_memory_is_given_back_once_after_calls_and_not_during_one(engine, clip):
    spy = Spy(engine)

    async def scenario():
        await engine.infer_flow(clip, False, embed=False)
        busy = asyncio.create_task(engine.infer_flow(clip, False, embed=False))
        await asyncio.sleep(0)
        await engine.trim_memory()  # not now
        await busy
        runs = [len(spy.runs)]
        for _ in range(2):  # the second time there is nothing left
            await engine.trim_memory()
            runs.append(len(spy.runs))
        return runs

    runs = asyncio.run(scenario())
    assert [n - runs[0] for n in runs] == [0, 1, 1]


def test_what_a_call_takes_while_memory_is_given_back_is_given_back_later(engine, clip):
    spy = Spy(engine)

    async def scenario():
        await engine.infer_flow(clip[:, :2], False, embed=False)
        giving = asyncio.create_task(engine.trim_memory())
        await asyncio.sleep(0)
        await asyncio.gather(giving, engine.infer_flow(clip[:, :2], False, embed=False))
        del spy.runs[:]
        await engine.trim_memory()

    asyncio.run(scenario())
    assert spy.runs == [("embedding", 1)]
