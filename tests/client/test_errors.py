"""Error replies become the right exceptions, whatever their bodies hold."""

import asyncio
import inspect
import json
import pickle

import httpx2
import mcjepa_client
import numpy as np
import pytest
from mcjepa_client import AsyncClient, Client, _errors
from mcjepa_client._errors import (
    STATUS_ERRORS,
    InputError,
    InvalidReplyError,
    McjepaError,
    StatusError,
    VideoError,
    status_error,
)


@pytest.mark.parametrize(("status", "kind"), STATUS_ERRORS.items())
def test_each_status_has_its_class_and_carries_the_details(scripted, connect, problem, naps, status, kind):
    server = scripted(problem(status, "the_code", x_request_id="id-in-header", retry_after="7"))
    with pytest.raises(StatusError) as caught:
        connect(server, max_retries=0).info()
    error = caught.value
    assert type(error) is kind
    assert (error.status_code, error.code, error.param) == (status, "the_code", "frame2")
    assert (error.request_id, error.retry_after) == ("id-in-header", 7.0)
    assert error.body["error"]["message"] == "what went wrong"
    assert str(error) == f"{status}: what went wrong [request id-in-header]"


def test_the_request_id_is_found_in_the_body_too(scripted, connect, problem):
    with pytest.raises(mcjepa_client.BadRequestError) as caught:
        connect(scripted(problem(400))).info()
    assert caught.value.request_id == "id-in-body"


def test_a_status_without_a_class_of_its_own_is_a_status_error(scripted, connect, problem):
    with pytest.raises(StatusError) as caught:
        connect(scripted(problem(418))).info()
    assert type(caught.value) is StatusError


HTML = "<html><head><title>502 Bad Gateway</title></head>\n<body>nginx</body></html>"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HTML.encode(), "502 Bad Gateway"),
        (b"", "without a body"),
        (b"\xff\xfe\x00binary", "binary"),
        (b"[" * 100_000, r"\[\["),
        (b"null", "without a body"),
        (b"[1, 2]", "without a body"),
        (b'"text"', "text"),
        (b'{"error": "a text, as other servers send"}', "without a body"),
        (b'{"error": {"message": {"nested": 1}, "code": 7}}', "without a body"),
        (b'{"detail": "plain FastAPI"}', "plain FastAPI"),
        (b'{"detail": [{"loc": ["x"]}], "title": "the title"}', "the title"),
        (json.dumps({"detail": "x" * 10}).encode("utf-16"), "x"),
    ],
)
def test_any_error_body_gives_an_error_with_one_line(scripted, connect, content, message):
    server = scripted(httpx2.Response(502, content=content))
    with pytest.raises(mcjepa_client.BadGatewayError, match=message) as caught:
        connect(server, max_retries=0).info()
    assert caught.value.code is None
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes():
    drawn = [line.lstrip("│├└─ ").split()[0] for line in _errors.__doc__.splitlines() if "Error" in line]
    classes = [cls for _, cls in inspect.getmembers(_errors, inspect.isclass) if issubclass(cls, McjepaError)]
    assert sorted(drawn) == sorted(cls.__name__ for cls in classes)
    for cls in classes:
        assert getattr(mcjepa_client, cls.__name__) is cls


@pytest.mark.parametrize("cls", [Client, AsyncClient])
def test_a_closed_client_says_so(cls):
    client = cls("http://server.test")
    calls = [
        lambda: client.embed(b"x"), lambda: client.flow(b"x", b"x"), lambda: client.analyze([b"x", b"x"]),
        client.info, client.models, client.is_alive, client.wait_until_ready,
    ]  # fmt: skip

    async def close():
        await client.close()

    asyncio.run(close()) if cls is AsyncClient else client.close()
    for call in calls:
        with pytest.raises(mcjepa_client.ClientClosedError) as caught:
            asyncio.run(call()) if cls is AsyncClient else call()
        assert isinstance(caught.value, RuntimeError)


def test_connections_that_were_passed_in_closed_are_named():
    http = httpx2.Client()
    http.close()
    with pytest.raises(mcjepa_client.ClientClosedError, match="http_client"):
        Client("http://server.test", http_client=http).info()

    async def call():
        async with httpx2.AsyncClient() as http:
            pass
        await AsyncClient("http://server.test", http_client=http).info()

    with pytest.raises(mcjepa_client.ClientClosedError, match="http_client"):
        asyncio.run(call())


@pytest.mark.parametrize(
    ("raised", "attempts"),
    [(UnicodeError("label too long"), 1), (RuntimeError("loop"), 1), (OSError(24, "files"), 3)],
)
def test_what_another_attempt_cannot_change_is_not_tried_again(connect, naps, raised, attempts):
    asked = []

    def server(request):
        asked.append(request)
        raise raised

    with pytest.raises(mcjepa_client.ConnectionFailedError):
        connect(server).info()
    assert len(asked) == attempts
    assert not connect(server).is_alive()


@pytest.mark.parametrize(
    "raised",
    [
        UnicodeError("label empty or too long"),
        OverflowError("port must be 0-65535"),
        OSError(24, "Too many open files"),
        RuntimeError("Event loop is closed"),
        httpx2.DecodingError("incorrect header check"),
        httpx2.TooManyRedirects("twenty"),
        httpx2.InvalidURL("in the location"),
        httpx2.StreamClosed(),
    ],
)
def test_what_goes_wrong_on_the_way_is_a_connection_error(scripted, connect, naps, raised):
    def server(request):
        raise raised

    with pytest.raises(mcjepa_client.ConnectionFailedError) as caught:
        connect(server).info()
    assert caught.value.__cause__ is raised

    async def call():
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(server)) as http:
            await AsyncClient("http://server.test", http_client=http, max_retries=0).info()

    with pytest.raises(mcjepa_client.ConnectionFailedError):
        asyncio.run(call())


def test_a_compressed_reply_that_is_none_is_a_connection_error(connect, naps):
    reply = {"headers": {"content-encoding": "gzip"}, "stream": httpx2.ByteStream(b"not gzip")}
    with pytest.raises(mcjepa_client.ConnectionFailedError):
        connect(lambda request: httpx2.Response(200, **reply)).info()


def test_a_system_error_keeps_its_kind_and_passes_between_processes(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        mcjepa_client.EmbedResult(np.eye(2, dtype=np.float32)).save(tmp_path / "none" / "a.npy")
    error = caught.value
    copy = pickle.loads(pickle.dumps(error))
    for found in (error, copy):
        assert isinstance(found, mcjepa_client.FileError)
        assert (found.errno, found.filename) == (2, str(tmp_path / "none" / "a.npy"))
        assert found.path == found.filename
        assert found.filename in str(found)
        assert ".tmp" not in str(found)
    assert str(copy) == str(error)
    with pytest.raises(IsADirectoryError) as caught:
        Client("http://server.test").embed(tmp_path)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(copy, InputError)
    assert isinstance(copy, IsADirectoryError)
    assert vars(copy) == vars(caught.value)


def test_a_path_that_no_system_has_is_refused():
    with pytest.raises(InputError, match="null"):
        Client("http://server.test").embed("a\0b.png")


@pytest.mark.parametrize("method", ["video", "process"])
def test_a_folder_that_cannot_be_searched_is_an_error_of_ours(monkeypatch, tmp_path, method):
    def deny(*_):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr("pathlib.Path.iterdir", deny)
    client = Client("http://server.test")
    call = {
        "video": lambda: list(client.video(tmp_path)),
        "process": lambda: client.process(tmp_path, tmp_path / "out"),
    }[method]
    with pytest.raises(PermissionError) as caught:
        call()
    assert isinstance(caught.value, McjepaError)


def test_input_errors_are_value_errors():
    assert issubclass(mcjepa_client.InputError, ValueError)


@pytest.mark.parametrize(
    "error",
    [
        status_error(503, b'{"detail": "draining"}', request_id="r1", retry_after=2.0),
        InvalidReplyError("not finite", status_code=200, request_id="r2", body=b"..."),
        VideoError("truncated", frames=7),
        mcjepa_client.ConnectionFailedError("refused"),
    ],
)
def test_errors_pass_between_processes(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), vars(copy)) == (str(error), vars(error))
