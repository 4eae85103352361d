"""The files of the web page: their headers, their types, their weight."""

import re
from importlib.resources import files
from pathlib import Path

import pytest
from mcjepa_server.engines.fake import FakeEngine

STATIC = Path(str(files("mcjepa_server"))) / "static"
NAMES = sorted(path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file())
TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
    "webm": "video/webm",
    "webp": "image/webp",
}


def directives(reply):
    policy = reply.headers["content-security-policy"]
    return dict(directive.split(" ", 1) for directive in policy.split("; "))


def test_the_page_is_at_the_root(client):
    reply = client.get("/")
    assert reply.headers["content-type"] == TYPES["html"]
    assert 'href="docs"' in reply.text
    assert client.get("/docs").status_code == 200


@pytest.mark.parametrize("name", NAMES)
def test_every_file_has_its_type_and_the_policy(client, name):
    reply = client.get(f"/static/{name}")
    assert reply.status_code == 200
    assert reply.content == (STATIC / name).read_bytes()
    assert reply.headers["content-type"] == TYPES[name.rsplit(".", 1)[1]]
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert directives(reply)["default-src"] == "'none'"


def test_the_policy_lets_nothing_in_from_elsewhere(client):
    allowed = {source for sources in directives(client.get("/")).values() for source in sources.split()}
    assert allowed == {"'none'", "'self'", "blob:", "data:"}
    assert directives(client.get("/"))["script-src"] == "'self'"


def test_the_page_holds_no_script_no_style_and_no_address_of_its_own():
    page = (STATIC / "index.html").read_text()
    assert not re.search(r"<style|<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=|javascript:", page)
    for name in NAMES:
        if name.endswith((".html", ".css", ".js")):
            text = (STATIC / name).read_text().replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"https?://", text), name


@pytest.mark.parametrize("path", ["/", "/static/app.js"])
def test_an_unchanged_file_is_not_sent_again(client, path):
    first = client.get(path)
    assert first.headers["cache-control"] == "no-cache"
    again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304
    assert again.content == b""
    assert "content-security-policy" in again.headers


@pytest.mark.parametrize("path", ["/", "/static/page.css"])
def test_head(client, path):
    reply = client.head(path)
    assert reply.status_code == 200
    assert reply.content == b""
    assert int(reply.headers["content-length"]) == len(client.get(path).content)


@pytest.mark.parametrize(
    "path", ["/static/", "/static/none.js", "/static/samples", "/static/%2e%2e/app.py", "/static//etc/passwd"]
)
def test_nothing_else_is_served(client, check_problem, path):
    check_problem(client.get(path), 404, "not_found")


def test_metrics_know_the_files_as_one_path(client):
    for name in ("app.js", "page.css", "none.js"):
        client.get(f"/static/{name}")
    routes = set(re.findall(r'route="([^"]*)"', client.get("/metrics").text))
    assert {route for route in routes if "static" in route} == {"/static/{path:path}"}


def test_the_page_weighs_under_150_kb_with_its_samples():
    assert sum((STATIC / name).stat().st_size for name in NAMES) < 150_000


@pytest.mark.parametrize(
    "path",
    [
        "/healthz",
        "/readyz",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/v1/info",
        "/v1/models",
        "/v1/models/mcjepa_embed",
    ],
)
def test_head_is_answered_as_get(client, path):
    reply, expected = client.head(path), client.get(path)
    assert reply.status_code == expected.status_code == 200
    assert reply.headers["content-type"] == expected.headers["content-type"]
    assert "content-length" in reply.headers
    assert not [
        path for path, methods in client.get("/openapi.json").json()["paths"].items() if "head" in methods
    ]


def test_head_of_what_is_not_ready_or_not_there(serve):
    client = serve(FakeEngine(fault="fail"))
    assert client.head("/readyz").status_code == client.get("/readyz").status_code == 503
    assert client.head("/v1/models/none").status_code == 404
    assert client.head("/v1/flow").status_code == 405


def test_the_documentation_has_all_its_files_from_here(client):
    page = client.get("/docs")
    names = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(names) == 3
    for name in names:
        assert not re.search(r"^/|:", name)
        reply = client.get(f"/{name}")
        assert reply.status_code == 200
        assert reply.headers["content-type"].split("/")[0] in ("text", "image")
        assert len(reply.content) > 100
    assert not re.search(r"https?:", page.headers["content-security-policy"])
    assert not re.search(r"https?://", page.text)


@pytest.mark.parametrize(
    "path", ["/static/swagger/", "/static/swagger/__init__.py", "/static/swagger/..%2fmain.py"]
)
def test_nothing_else_of_the_package_is_served(client, check_problem, path):
    check_problem(client.get(path), 404, "not_found")
