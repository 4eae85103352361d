"""Limits on bodies: bytes, time, type; and bodies that break off."""

import asyncio
import gc
import weakref

import pytest
from mcjepa_server import Settings, create_app
from mcjepa_server.api.request_body import Form, FormReader
from mcjepa_server.engines.fake import FakeEngine
from mcjepa_server.errors import Overloaded
from mcjepa_server.scheduling.byte_budget import ByteBudget

MULTIPART = {"content-type": "multipart/form-data; boundary=x"}
HEAD = b'--x\r\nContent-Disposition: form-data; name="frame1"; filename="1"\r\n\r\n'


async def ask(app, messages, headers, path="/v1/flow"):
    """One request as raw ASGI messages; after the last one nothing comes. Returns status, headers, body."""
    pending = list(messages)
    sent = []

    async def receive():
        if pending:
            return pending.pop(0)
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "server": ("test", 80),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    async with app.router.lifespan_context(app):
        await app(scope, receive, send)
    reply_headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], reply_headers, b"".join(message.get("body", b"") for message in sent), pending


def chunk(data, more=True):
    return {"type": "http.request", "body": data, "more_body": more}


def test_declared_length_is_refused_before_the_body_is_read():
    app = create_app(Settings(max_body_bytes=1000), FakeEngine())
    headers = {**MULTIPART, "content-length": "1001"}
    status, reply, body, left = asyncio.run(ask(app, [chunk(b"a" * 1001, False)], headers))
    assert status == 413
    assert b"1001 bytes; the limit is 1000 bytes (max_body_bytes)" in body
    assert reply["connection"] == "close"
    assert len(left) == 1


@pytest.mark.parametrize("path", ["/v1/flow", "/v1/analyze", "/v1/embeddings"])
@pytest.mark.parametrize("headers", [{}, {"content-length": "10"}, {"content-length": "x"}])
def test_the_limit_holds_without_a_true_length(path, headers):
    app = create_app(Settings(max_body_bytes=1000), FakeEngine())
    chunks = [chunk(HEAD), *(chunk(b"a" * 100) for _ in range(1000))]
    status, reply, body, left = asyncio.run(ask(app, chunks, {**MULTIPART, **headers}, path))
    assert status == 413
    assert b"max_body_bytes" in body
    assert reply["connection"] == "close"
    assert len(left) > 980  # reading stopped at the limit


def test_the_limit_holds_for_json():
    app = create_app(Settings(max_body_bytes=1000), FakeEngine())
    chunks = [chunk(b'{"input": "')] + [chunk(b"a" * 100) for _ in range(100)]
    status, _, body, _ = asyncio.run(ask(app, chunks, {"content-type": "application/json"}, "/v1/embeddings"))
    assert status == 413
    assert b"max_body_bytes" in body


def test_a_body_of_exactly_the_limit_is_read(serve, pair, encode, picture):
    import httpx2

    request = httpx2.Request("POST", "http://testserver/v1/flow", files=pair)
    size = len(request.read())
    headers = {"Content-Type": request.headers["content-type"]}
    for limit, status in ((size, 200), (size - 1, 413)):
        reply = serve(max_body_bytes=limit).post("/v1/flow", content=request.content, headers=headers)
        assert reply.status_code == status


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "application/json"])
@pytest.mark.parametrize("length", ["0" * 5000 + "5", "9" * 5000, "0" * 21])
def test_a_length_of_too_many_digits(kind, length):
    app = create_app(Settings(), FakeEngine())
    headers = {"content-type": kind, "content-length": length}
    status, _, body, _ = asyncio.run(ask(app, [chunk(b"a", False)], headers, "/v1/embeddings"))
    assert status == 400
    assert b'"code":"malformed_request"' in body


def test_a_body_that_stops_coming():
    app = create_app(Settings(body_timeout_s=0.01), FakeEngine())
    status, reply, body, _ = asyncio.run(ask(app, [chunk(HEAD)], MULTIPART))
    assert status == 408
    assert b"body_timeout_s" in body
    assert reply["connection"] == "close"


def test_a_body_slower_than_its_own_deadline():
    app = create_app(Settings(), FakeEngine())
    headers = {**MULTIPART, "x-request-timeout": "0.01"}
    status, reply, body, _ = asyncio.run(ask(app, [chunk(HEAD)], headers))
    assert status == 504
    assert b"X-Request-Timeout" in body
    assert reply["connection"] == "close"


def test_all_bodies_together_are_bounded():
    app = create_app(Settings(max_buffered_bytes=1000), FakeEngine())
    bodies = app.state.service.bodies
    bodies.take(900, {})
    chunks = [chunk(HEAD)] + [chunk(b"a" * 100) for _ in range(9)]
    status, reply, body, _ = asyncio.run(ask(app, chunks, MULTIPART))
    assert status == 429
    assert b"the limit is 1000 (max_buffered_bytes)" in body
    assert reply["retry-after"] == "1"
    assert bodies.used == 900  # what the request held is given back


def test_large_bodies_leave_room_for_small_ones():
    budget = ByteBudget(80 * 2**20)
    large = [{} for _ in range(7)]
    for state in large:
        budget.take(10 * 2**20, state)
    for state in (large[0], {}):
        with pytest.raises(Overloaded, match=r"\(max_buffered_bytes\), of which 73400320 for bodies over"):
            budget.take(2**20 + 1, state)
    small = [{} for _ in range(10)]
    for state in small:
        budget.take(2**20, state)
    with pytest.raises(Overloaded, match="the limit is 83886080"):
        budget.take(1, {})
    for state in large + small:
        budget.release(state)
    assert budget.used == 0


class Body:
    """A request of its own to an application that runs; its body comes as slowly as is wanted."""

    def __init__(self, app, size):
        self.pieces = asyncio.Queue()
        self.pieces.put_nowait(chunk(b" " * size))
        self.sent = []
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/embeddings",
            "raw_path": b"/v1/embeddings",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }
        self.task = asyncio.create_task(app(scope, self.pieces.get, self.send))

    async def send(self, message):
        self.sent.append(message)

    async def end(self):
        self.pieces.put_nowait(chunk(b"", more=False))
        await self.task
        return self.sent[0]["status"], b"".join(message.get("body", b"") for message in self.sent)


@pytest.mark.parametrize("patience", [0.0, 60.0])
def test_where_there_is_no_room_what_does_not_arrive_makes_some(monkeypatch, patience):
    monkeypatch.setattr("mcjepa_server.scheduling.byte_budget._PATIENT_S", patience)
    app = create_app(Settings(max_buffered_bytes=64 * 2**10), FakeEngine())
    bodies = app.state.service.bodies

    async def scenario():
        async with app.router.lifespan_context(app):
            stalled = [Body(app, 2**10 * size) for size in (30, 10, 20)]
            while bodies.used < 60 * 2**10:
                await asyncio.sleep(0)
            late = Body(app, 10 * 2**10)
            answers = [await late.end()]
            used = bodies.used
            answers += [await body.end() for body in stalled]
            return used, answers

    used, answers = asyncio.run(scenario())
    statuses = [status for status, _ in answers]
    if patience:
        assert statuses[0] == 429
        assert 408 not in statuses
    else:  # the slowest is the second of those that had stalled
        assert statuses == [400, 400, 408, 400]
        assert b"max_buffered_bytes" in answers[2][1]
        assert used == 50 * 2**10
    assert bodies.used == 0
    assert not bodies.arriving


@pytest.mark.parametrize("kind", ['; filename="f"', ""])
def test_parts_are_counted_while_they_arrive(kind):
    app = create_app(Settings(max_parts=10), FakeEngine())
    part = f'--x\r\nContent-Disposition: form-data; name="n"{kind}\r\n\r\n\r\n'.encode()
    status, _, body, left = asyncio.run(ask(app, [chunk(part) for _ in range(100)], MULTIPART))
    assert status == 400
    assert b"the limit is 10 (max_parts)" in body
    assert len(left) == 89


@pytest.mark.parametrize("header", ["X: " + "a" * 5000, "\r\n".join(f"X-{n}: 1" for n in range(20))])
def test_headers_of_a_part_are_bounded(client, check_problem, header):
    body = (
        f'--x\r\nContent-Disposition: form-data; name="frame1"; filename="1"\r\n{header}\r\n\r\n\r\n--x--\r\n'
    )
    problem = check_problem(
        client.post("/v1/flow", content=body, headers=MULTIPART), 400, "malformed_request"
    )
    assert "8 headers (max_part_headers) of 4224 bytes each (max_part_header_bytes)" in problem["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        [f'form-data; name="frame1"; filename="1"; a="{";" * 20}"'],
        ['form-data; name="frame1"; filename="1"; ' + "a;" * 20],
        [f'form-data; name="frame1"; filename="{"1" * 1024}"'],
        ['form-data; name="frame1"; filename="1"'] * 2,
    ],
)
def test_a_part_has_one_disposition_of_a_few_parameters(client, check_problem, headers):
    lines = "".join(f"Content-Disposition: {header}\r\n" for header in headers)
    reply = client.post("/v1/flow", content=f"--x\r\n{lines}\r\n1\r\n--x--\r\n", headers=MULTIPART)
    check_problem(reply, 400, "malformed_request")


@pytest.mark.parametrize("junk", [";" * 20, "a" * 1024])
def test_parameters_of_the_content_type_are_bounded(client, check_problem, junk):
    headers = {"Content-Type": f'multipart/form-data; boundary=x; a="{junk}"'}
    problem = check_problem(
        client.post("/v1/flow", content=b"--x--\r\n", headers=headers), 400, "malformed_request"
    )
    assert "16 and 1024" in problem["detail"]


def test_a_long_file_name_with_semicolons_is_read():
    reader = FormReader("multipart/form-data; boundary=x", max_parts=2)
    name = ";" * 10 + "\u00e4" * 400
    reader.feed(
        f'--x\r\nContent-Disposition: form-data; name="a"; filename="{name}"\r\n\r\n1\r\n--x--'.encode()
    )
    assert reader.form() == Form([("a", b"1")], {})


@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_a_form_is_the_same_however_its_bytes_arrive(size):
    body = (
        b'--x\r\ncontent-disposition: form-data; name="frame1"; filename="a.png"\r\n'
        b"Content-Type: image/png\r\n\r\none\r\n--\r\n-x\r\n"
        b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nn\xc3\xa4no\r\n--x--\r\n'
    )
    reader = FormReader("multipart/form-data; boundary=x", max_parts=2)
    for start in range(0, len(body), size):
        reader.feed(body[start : start + size])
    assert reader.form() == Form([("frame1", b"one\r\n--\r\n-x")], {"model": "n\u00e4no"})


@pytest.mark.parametrize("body", [HEAD + b"data\r\n--x--\r\n", HEAD, b"junk"])
def test_a_body_that_was_read_is_kept_by_nobody(body, monkeypatch):
    """As a part of a cycle it would stay until some collection, and count for nothing."""
    readers = weakref.WeakSet()

    class Noted(FormReader):
        def __init__(self, *args):
            super().__init__(*args)
            readers.add(self)

    monkeypatch.setattr("mcjepa_server.api.request_body.FormReader", Noted)
    app = create_app(Settings(), FakeEngine())
    gc.collect()
    gc.disable()
    try:
        status, *_ = asyncio.run(ask(app, [chunk(body, False)], MULTIPART))
        assert not readers
    finally:
        gc.enable()
    assert status in (400, 422)


def test_a_client_that_goes_away_while_sending():
    app = create_app(Settings(), FakeEngine())
    status, *_ = asyncio.run(ask(app, [chunk(HEAD), {"type": "http.disconnect"}], MULTIPART))
    assert status == 499


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary here",
        HEAD,
        HEAD + b"data that ends without a boundary",
        b'--x\r\nContent-Disposition: form-data; filename="1"\r\n\r\nno name\r\n--x--\r\n',
        b"--x\r\n\xff\xff: broken header",
    ],
)
def test_broken_multipart(client, check_problem, body):
    reply = client.post("/v1/flow", content=body, headers=MULTIPART)
    check_problem(reply, 400, "malformed_request")


def test_multipart_without_a_boundary(client, check_problem):
    reply = client.post("/v1/flow", content=b"x", headers={"Content-Type": "multipart/form-data"})
    assert "boundary" in check_problem(reply, 400, "malformed_request")["detail"]


@pytest.mark.parametrize("content_type", [None, "application/json", "image/png", "text/plain", "x" * 5000])
@pytest.mark.parametrize("path", ["/v1/flow", "/v1/analyze"])
def test_wrong_content_type(client, check_problem, path, content_type):
    headers = {} if content_type is None else {"Content-Type": content_type}
    body = check_problem(client.post(path, content=b"x", headers=headers), 415, "unsupported_media_type")
    assert "multipart/form-data" in body["detail"]
    assert len(body["detail"]) < 300


def test_wrong_content_type_for_embeddings(client, check_problem):
    reply = client.post("/v1/embeddings", data={"input": "x"})
    body = check_problem(reply, 415, "unsupported_media_type")
    assert "application/json or multipart/form-data" in body["detail"]


def test_an_empty_part(client, pair, check_problem):
    pair["frame2"] = ("2.png", b"")
    body = check_problem(client.post("/v1/flow", files=pair), 400, "undecodable_image")
    assert body["detail"] == "frame2 is empty"


@pytest.mark.parametrize("path", ["/v1/flow", "/v1/analyze", "/v1/embeddings"])
@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "gzip, identity", "x-unknown"])
def test_a_compressed_body_is_refused_by_name(client, check_problem, path, kind, encoding):
    headers = {"Content-Type": kind, "Content-Encoding": encoding}
    problem = check_problem(client.post(path, content=b"x", headers=headers), 415, "unsupported_media_type")
    assert problem["error"]["param"] == "Content-Encoding"


def test_identity_is_no_compression(client, pair):
    assert client.post("/v1/flow", files=pair, headers={"Content-Encoding": "identity"}).status_code == 200
