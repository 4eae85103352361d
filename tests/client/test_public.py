"""The public names, and that the two clients are the same."""

import collections.abc
import inspect
import subprocess
import sys
from importlib.resources import files

import mcjepa_client
import numpy as np
import pytest
from mcjepa_client import AsyncClient, Client, FrameResult
from PIL import Image

METHODS = [
    "analyze", "close", "embed", "flow", "info", "is_alive", "is_ready", "models", "video",
    "wait_until_ready",
]  # fmt: skip
BLOCKING_ONLY = ["process"]  # reads and writes files from end to end
ITERATORS = {"video"}  # not awaited, but iterated over


def public_methods(cls):
    return sorted(name for name, member in inspect.getmembers(cls, callable) if name[0] != "_")


def test_public_names_are_pinned():
    assert sorted(mcjepa_client.__all__) == [
        "AnalyzeResult", "AsyncClient", "AuthenticationError", "BadGatewayError", "BadRequestError",
        "CameraMotion", "Client", "ClientClosedError", "ConnectionFailedError", "EmbedResult", "FileError",
        "FlowResult", "FrameResult", "GatewayTimeoutError", "InputError", "InternalServerError",
        "InvalidReplyError", "Match", "McjepaError",
        "MissingExtraError", "NotAcceptableError", "NotFoundError", "PayloadTooLargeError",
        "PermissionDeniedError", "ProcessResult", "RateLimitError", "RequestTimeoutError",
        "ServiceUnavailableError", "Stabilisation", "StatusError", "TrackedPoints",
        "UnprocessableEntityError", "UnsupportedMediaTypeError", "VideoError", "__version__",
        "camera_motion", "cosine_similarity", "flow_io", "flow_viz", "grid_points", "nearest",
        "occlusion", "stabilise", "tracks", "warp",
    ]  # fmt: skip
    assert all(hasattr(mcjepa_client, name) for name in mcjepa_client.__all__)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("import mcjepa_client", []),
        ("from mcjepa_client import flow_io", ["numpy"]),
        ("from mcjepa_client import AsyncClient, Client, cli, flow_viz", ["httpx2", "numpy"]),
        ("from mcjepa_client import *", ["httpx2", "numpy"]),
    ],
)
def test_what_is_not_used_is_not_imported(line, expected):
    script = f"{line}; import sys; print(sorted({{'numpy', 'httpx2', 'cv2'}} & sys.modules.keys()))"
    command = [sys.executable, "-c", script]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout == f"{expected}\n"


FLOW = np.zeros((8, 8, 2), np.float32)
NEEDS_OPENCV = [
    lambda: mcjepa_client.warp(FLOW[..., 0] > 0, FLOW),
    lambda: mcjepa_client.FlowResult(FLOW).warp(np.zeros((8, 8), np.uint8)),
    lambda: mcjepa_client.occlusion(FLOW, FLOW),
    lambda: mcjepa_client.camera_motion(FLOW),
    lambda: mcjepa_client.stabilise([mcjepa_client.FlowResult(FLOW)]),
]


@pytest.mark.parametrize("call", NEEDS_OPENCV)
def test_what_needs_opencv_says_so(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(mcjepa_client.MissingExtraError, match="opencv-python-headless"):
        call()


def test_a_library_that_is_there_and_broken_is_named_too(monkeypatch, tmp_path):
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    with pytest.raises(mcjepa_client.MissingExtraError, match=r"libGL\.so\.1"):
        mcjepa_client.camera_motion(FLOW)


def test_recipes_take_what_the_calls_take():
    wide = np.full((8, 8), 65535, np.uint16)
    assert np.array_equal(mcjepa_client.warp(wide, FLOW), np.full((8, 8), 255))
    assert np.array_equal(mcjepa_client.warp(Image.fromarray(wide), FLOW), np.full((8, 8), 255))
    plan = mcjepa_client.stabilise([mcjepa_client.FlowResult(FLOW)])
    assert np.array_equal(plan.apply(0, wide), np.full((8, 8), 255))
    for refused in (wide.astype(float), Image.new("F", (8, 8)), [[1, 2], [3]]):
        with pytest.raises(mcjepa_client.InputError):
            mcjepa_client.warp(refused, FLOW)


def test_both_clients_have_the_pinned_methods():
    assert public_methods(Client) == sorted(METHODS + BLOCKING_ONLY)
    assert public_methods(AsyncClient) == METHODS


@pytest.mark.parametrize("name", [*METHODS, "__init__"])
def test_signatures_are_equal(name):
    blocking, awaiting = (inspect.signature(getattr(cls, name)) for cls in (Client, AsyncClient))
    if name in ITERATORS:
        assert awaiting.return_annotation == collections.abc.AsyncIterator[FrameResult]
        assert blocking.return_annotation == collections.abc.Iterator[FrameResult]
    else:
        assert blocking.return_annotation == awaiting.return_annotation
    for first, second in zip(blocking.parameters.values(), awaiting.parameters.values(), strict=True):
        if first.name == "http_client":
            continue  # httpx2.Client and httpx2.AsyncClient
        assert first == second


@pytest.mark.parametrize("name", METHODS)
def test_only_the_async_methods_are_coroutines(name):
    assert not inspect.iscoroutinefunction(getattr(Client, name))
    assert inspect.iscoroutinefunction(getattr(AsyncClient, name)) == (name not in ITERATORS)


@pytest.mark.parametrize("cls", [Client, AsyncClient])
def test_every_public_method_is_documented(cls):
    assert [name for name in public_methods(cls) if not inspect.getdoc(getattr(cls, name))] == []


def test_the_package_is_typed():
    assert files("mcjepa_client").joinpath("py.typed").is_file()
