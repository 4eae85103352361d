"""Behind a path prefix: the proxy cuts it off or leaves it, or an outer application mounts the server."""

import re
from contextlib import ExitStack

import pytest
from mcjepa_server import Settings, create_app
from mcjepa_server.engines.fake import FakeEngine
from mcjepa_server.http.keys import add_key
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

PREFIX = "/models/mcjepa"


@pytest.fixture(params=["cut off", "left", "ASGI", "mounted"])
def behind(request, tmp_path):
    """Starts a server with API keys; returns a function that asks it for a path below the prefix."""
    keys = tmp_path / "keys"
    key = add_key(keys, "alice")
    way = request.param
    own = {} if way in ("ASGI", "mounted") else {"root_path": PREFIX}
    app = create_app(Settings(api_keys_file=keys, **own), FakeEngine())
    outer = Starlette(routes=[Mount(PREFIX, app)], lifespan=app.router.lifespan_context)
    with ExitStack() as stack:
        if way == "mounted":
            outer.router.lifespan_context = lambda _: app.router.lifespan_context(app)
        client = stack.enter_context(
            TestClient(
                outer if way == "mounted" else app,
                root_path=PREFIX if way == "ASGI" else "",
                follow_redirects=False,
                headers={"Authorization": f"Bearer {key}"},
            )
        )
        yield lambda path, method="GET", **options: client.request(
            method, path if way in ("cut off", "ASGI") else PREFIX + path, **options
        )


def test_every_path_is_found(behind, pair):
    for path in ("/", "/docs", "/healthz", "/v1/info", "/static/app.js", "/static/swagger/swagger-ui.css"):
        assert behind(path).status_code == 200, path
    assert behind("/v1/flow", "POST", files=pair).status_code == 200


def test_what_is_open_and_what_is_not(behind, check_problem):
    nobody = {"headers": {"Authorization": ""}}
    for path in ("/", "/docs", "/openapi.json", "/healthz", "/static/app.js"):
        assert behind(path, **nobody).status_code == 200, path
    check_problem(behind("/v1/info", **nobody), 401, "unauthorized")


def test_a_trailing_slash_redirects_below_the_prefix(behind, pair):
    for path in ("/v1/info", "/docs", "/healthz"):
        reply = behind(f"{path}/?a=1", headers={"Host": "inner:8000"})
        assert reply.status_code == 307
        assert reply.headers["location"] == f"{PREFIX}{path}?a=1"
    assert behind("/v1/flow/", "POST", files=pair).headers["location"] == f"{PREFIX}/v1/flow"


def test_the_description_names_the_prefix(behind):
    assert behind("/openapi.json").json()["servers"] == [{"url": PREFIX}]
    assert behind("/nothing").json()["instance"] == f"{PREFIX}/nothing"


def test_the_metrics_do_not(behind):
    assert behind("/v1/info").status_code == 200
    assert 'route="/v1/info"' in behind("/metrics").text
    assert not re.search(rf'route="{PREFIX}', behind("/metrics").text)


def test_a_path_that_only_begins_like_the_prefix():
    with TestClient(create_app(Settings(root_path="/api"), FakeEngine()), follow_redirects=False) as client:
        assert client.get("/api/v1/info").status_code == 200
        assert client.get("/apiv1/info").status_code == 404
        assert client.get("/api/").status_code == 200
        assert client.get("/api").headers["location"] == "/api/"


def test_without_a_prefix_a_redirect_names_no_host(client):
    reply = client.get("/v1/info/", follow_redirects=False, headers={"Host": "evil"})
    assert reply.headers["location"] == "/v1/info"
    assert client.get("/openapi.json").json().get("servers") is None


@pytest.mark.parametrize(
    "value",
    ["mcjepa", "/a b", "/a?b", "http://host/a", "/a//b", "/../a", '/a"', "//host", "/v1", "/static/x"],
)
def test_what_is_no_prefix_is_refused(value):
    with pytest.raises(ValidationError, match="root_path"):
        Settings(root_path=value)


def test_slashes_at_the_end_are_dropped():
    assert Settings(root_path="/a/b/").root_path == "/a/b"
    assert Settings(root_path="/").root_path == ""
