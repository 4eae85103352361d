"""Error replies become the right exceptions, whatever their bodies hold."""

import inspect
import json
import pickle

import httpx2
import mcjepa_client
import pytest
from mcjepa_client import _errors
from mcjepa_client._errors import (
    STATUS_ERRORS,
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
