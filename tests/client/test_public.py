"""The public names, and that the two clients are the same."""

import collections.abc
import inspect
import subprocess
import sys
from importlib.resources import files

import mcjepa_client
import pytest
from mcjepa_client import AsyncClient, Client, FrameResult

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
        "CameraMotion", "Client", "ConnectionFailedError", "EmbedResult", "FlowResult", "FrameResult",
        "GatewayTimeoutError", "InputError", "InternalServerError", "InvalidReplyError", "Match",
        "McjepaError", "MissingExtraError", "NotAcceptableError", "NotFoundError", "PayloadTooLargeError",
        "PermissionDeniedError", "ProcessResult", "RateLimitError", "RequestTimeoutError",
        "ServiceUnavailableError", "Stabilisation", "StatusError", "TrackedPoints",
        "UnprocessableEntityError", "UnsupportedMediaTypeError", "VideoError", "__version__",
        "camera_motion", "cosine_similarity", "flow_io", "flow_viz", "grid_points", "nearest",
        "occlusion", "stabilise", "tracks", "warp",
    ]  # fmt: skip
    assert all(hasattr(mcjepa_client, name) for name in mcjepa_client.__all__)


@pytest.mark.parametrize(
    ("line", "expected"),
    [("import mcjepa_client", []), ("from mcjepa_client import flow_io", ["cv2", "numpy"])],
)
def test_what_is_not_used_is_not_imported(line, expected):
    script = f"{line}; import sys; print(sorted({{'numpy', 'httpx2', 'cv2'}} & sys.modules.keys()))"
    command = [sys.executable, "-c", script]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout == f"{expected}\n"


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
