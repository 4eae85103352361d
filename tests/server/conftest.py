"""What the gateway's tests share: an app in this process, image files, and a tiny model repository."""

import io
import os
from contextlib import ExitStack

import numpy as np
import onnx
import pytest
from mcjepa_server import Settings, create_app
from mcjepa_server.engines.fake import FakeEngine
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from starlette.testclient import TestClient


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("MCJEPA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MCJEPA_DECODE_PROCESSES", "0")  # starting some takes a second; see BOTH_WAYS


@pytest.fixture
def serve():
    """Starts an app on a fake engine (or the given one) and returns its client."""
    with ExitStack() as stack:

        def start(engine=None, **settings):
            app = create_app(Settings(**settings), engine or FakeEngine())
            return stack.enter_context(TestClient(app))

        yield start


#: Modules whose ``client`` is tried on decoder processes, too, as a server has them by default.
BOTH_WAYS = {"test_analyze", "test_embeddings", "test_flow", "test_images", "test_limits"}


def pytest_generate_tests(metafunc):
    if "client" in metafunc.fixturenames and metafunc.definition.path.stem in BOTH_WAYS:
        metafunc.parametrize("client", ["threads", "processes"], indirect=True)


@pytest.fixture
def client(request, serve):
    """An app with the default settings, decoding in threads or, where the test asks for it, in processes."""
    if getattr(request, "param", "threads") == "threads":
        return serve()
    running = request.getfixturevalue("running_with_processes")
    client = TestClient(running.app)  # of its own, since a test may close it
    client.portal = running.portal
    return client


@pytest.fixture(scope="session")
def running_with_processes():
    """One server for all tests: its processes take a second to start."""
    with TestClient(create_app(Settings(decode_processes=2), FakeEngine())) as client:
        yield client


@pytest.fixture
def encode():
    """An array or a PIL image as the bytes of an image file."""

    def to_bytes(image, file_format="PNG", **options):
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        buffer = io.BytesIO()
        image.save(buffer, file_format, **options)
        return buffer.getvalue()

    return to_bytes


@pytest.fixture
def picture():
    """A smooth (H, W, 3) uint8 image whose pixels all differ from their neighbours."""

    def make(height=48, width=80):
        y, x = np.mgrid[0:height, 0:width]
        channels = (x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height))
        return np.stack(channels, axis=-1).astype(np.uint8)

    return make


@pytest.fixture
def pair(encode, picture):
    """A valid multipart body for /v1/flow."""
    data = encode(picture())
    return {"frame1": ("1.png", data), "frame2": ("2.png", data)}


@pytest.fixture
def check_problem():
    """Asserts that a reply is a problem of this status and code, and returns it."""

    def check(reply, status, code):
        assert reply.status_code == status, reply.text
        assert reply.headers["content-type"] == "application/problem+json"
        body = reply.json()
        assert body["status"] == status
        assert body["type"] == f"urn:mcjepa:problem:{code}"
        assert body["error"]["code"] == code
        assert body["error"]["message"] == body["detail"]
        assert body["request_id"] == reply.headers["x-request-id"]
        assert "Traceback" not in reply.text
        return body

    return check


PARAMETERS = {
    "contract_version": "1",
    "model_version": "tiny-test",
    "weights_sha256": "ab" * 32,
    "stride": "64",
    "mean": "0.485,0.456,0.406",
    "std": "0.229,0.224,0.225",
    "embedding_size": "3",
    "embed_image_size": "32",
    "training_summary": "not trained",
    "license": "Apache-2.0",
}


@pytest.fixture
def write_config():
    """Writes a config.pbtxt; ``changes`` overrides parameters, None leaves one out."""

    def write(folder, name, max_batch_size=4, **changes):
        values = {key: value for key, value in {**PARAMETERS, **changes}.items() if value is not None}
        lines = [f'name: "{name}"', 'backend: "onnxruntime"', f"max_batch_size: {max_batch_size}"]
        lines += [
            f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
            for key, value in values.items()
        ]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.pbtxt").write_text("\n".join(lines))

    return write


@pytest.fixture
def repository(tmp_path, write_config):
    """A model repository that computes what FakeEngine computes, with D = 3, and twice the flow as `best`."""
    models = {
        "mcjepa_flow/1/model.onnx": flow_graph(backward=False),
        "mcjepa_flow/1/frame.onnx": frame_graph(),
        "mcjepa_flow/1/match.onnx": match_graph(),
        "mcjepa_flow/1/details_best.onnx": details_graph(),
        "mcjepa_flow/1/match_best.onnx": match_graph(details=True),
        "mcjepa_flow_best/1/model.onnx": flow_graph(backward=False, factor=2),
        "mcjepa_flow_bidirectional/1/model.onnx": flow_graph(backward=True),
        "mcjepa_embed/1/model.onnx": embed_graph(),
        "mcjepa_embed/1/embed.onnx": small_graph(),
    }
    root = tmp_path / "model_repository"
    for file, model in models.items():
        name = file.partition("/")[0]
        write_config(root / name, name)
        (root / name / "1").mkdir(exist_ok=True)
        onnx.save(model, root / file)
    return root


def flow_graph(backward, factor=1):
    """flow = factor * (red / 16, -green / 16) of frame i; flow_backward the same of frame i+1."""
    nodes = [
        node("Cast", ["frames"], "values", to=TensorProto.FLOAT),
        node("Constant", [], "times", value_float=float(factor)),
        node("Mul", ["values", "times"], "pixels"),
    ]
    nodes += colour_flow("flow", "zero", "minus_one")
    if backward:
        nodes += colour_flow("flow_backward", "one", "end")
    nodes.append(node("ReduceMean", ["pixels"], "embedding", axes=[2, 3], keepdims=0))
    outputs = [value("flow", ["B", "M", 2, "H", "W"]), value("embedding", ["B", "N", 3])]
    if backward:
        outputs.append(value("flow_backward", ["B", "M", 2, "H", "W"]))
    constants = {
        "zero": [0], "one": [1], "two": [2], "minus_one": [-1], "end": [2**31],
        "frame_axis": [1], "channel_axis": [4],
    }  # fmt: skip
    return build(nodes, value("frames", ["B", "N", "H", "W", 3], TensorProto.UINT8), outputs, constants)


def colour_flow(name, start, stop):
    return [
        node("Slice", ["pixels", start, stop, "frame_axis"], f"{name}_frames"),
        node("Slice", [f"{name}_frames", "zero", "two", "channel_axis"], f"{name}_channels"),
        node("Mul", [f"{name}_channels", "factor"], f"{name}_last"),
        node("Transpose", [f"{name}_last"], name, perm=[0, 1, 4, 2, 3]),
    ]


def frame_graph():
    """Each map is the frame, but for the grey one, its red, and the small one, its mean colour."""
    nodes = [
        node("Cast", ["frames"], "pixels", to=TensorProto.FLOAT),
        node("Transpose", ["pixels"], "planes", perm=[0, 3, 1, 2]),
        node("ReduceMean", ["planes"], "colour", axes=[2, 3], keepdims=1),
        node("Expand", ["colour", "small_shape"], "small"),
        *(node("Identity", ["planes"], name) for name in ("map_8", "map_16", "map_32")),
        node("Slice", ["planes", "zero", "one", "one"], "grey"),
    ]
    maps = [value(name, ["B", 3, "H", "W"]) for name in ("map_8", "map_16", "map_32")]
    outputs = [*maps, value("grey", ["B", 1, "H", "W"]), value("small", ["B", 3, 32, 32])]
    frames = value("frames", ["B", "H", "W", 3], TensorProto.UINT8)
    return build(nodes, frames, outputs, {"zero": [0], "one": [1], "small_shape": [1, 3, 32, 32]})


def details_graph():
    """Twice the frame."""
    nodes = [
        node("Cast", ["frames"], "pixels", to=TensorProto.FLOAT),
        node("Transpose", ["pixels"], "planes", perm=[0, 3, 1, 2]),
        node("Add", ["planes", "planes"], "details"),
    ]
    frames = value("frames", ["B", "H", "W", 3], TensorProto.UINT8)
    return build(nodes, frames, [value("details", ["B", 3, "H", "W"])], {})


def match_graph(details=False):
    """flow = (red / 16, -green / 16) of the frame it starts from, or of its details."""
    nodes = [
        node("Slice", ["start_details" if details else "start_map_8", "zero", "two", "one"], "channels"),
        node("Reshape", ["factor", "per_channel"], "factors"),
        node("Mul", ["channels", "factors"], "flow"),
    ]
    maps = [(name, 3) for name in ("map_8", "map_16", "map_32")] + [("grey", 1)] + [("details", 3)] * details
    inputs = [value(f"{end}_{m}", ["B", c, "H", "W"]) for end in ("start", "end") for m, c in maps]
    outputs = [value("flow", ["B", 2, "H", "W"])]
    return build(nodes, inputs, outputs, {"zero": [0], "one": [1], "two": [2], "per_channel": [1, 2, 1, 1]})


def embed_graph(side=32):
    nodes = [
        node("Cast", ["images"], "pixels", to=TensorProto.FLOAT),
        node("ReduceMean", ["pixels"], "embedding", axes=[1, 2], keepdims=0),
        node("Transpose", ["pixels"], "planes", perm=[0, 3, 1, 2]),
        node("AveragePool", ["planes"], "features", kernel_shape=[8, 8], strides=[8, 8]),
    ]
    outputs = [value("embedding", ["B", 3]), value("features", ["B", 3, side // 8, side // 8])]
    return build(nodes, value("images", ["B", side, side, 3], TensorProto.UINT8), outputs, {})


def small_graph(side=32):
    nodes = [
        node("ReduceMean", ["small"], "embedding", axes=[2, 3], keepdims=0),
        node("AveragePool", ["small"], "features", kernel_shape=[8, 8], strides=[8, 8]),
    ]
    outputs = [value("embedding", ["B", 3]), value("features", ["B", 3, side // 8, side // 8])]
    return build(nodes, value("small", ["B", 3, side, side]), outputs, {})


def node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs, [output], **attributes)


def value(name, shape, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def build(nodes, inputs, outputs, constants):
    initializers = [
        numpy_helper.from_array(np.array(data, np.int64), name) for name, data in constants.items()
    ]
    initializers.append(numpy_helper.from_array(np.array([1 / 16, -1 / 16], np.float32), "factor"))
    inputs = inputs if isinstance(inputs, list) else [inputs]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model
