"""The HTTP layer over a real socket: callers that send without end, slowly or nothing, and do not read."""

import asyncio
import json
import re
import socket
import struct
from contextlib import asynccontextmanager, suppress

import httpx2
import numpy as np
import pytest
from mcjepa_server import Settings, create_app
from mcjepa_server.cli import make_server
from mcjepa_server.engines.fake import FakeEngine
from mcjepa_server.http.keys import add_key

GET = b"GET /healthz HTTP/1.1\r\nHost: test\r\n"


@asynccontextmanager
async def listening(engine=None, **settings):
    """A real server on a free port; gives a function that connects to it, and the server."""
    chosen = Settings(port=0, drain_delay_s=0, **settings)
    server = make_server(chosen, create_app(chosen, engine or FakeEngine()))
    task = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.001)
    port = server.servers[0].sockets[0].getsockname()[1]
    opened = []

    async def connect(receive_buffer=None):
        connection = socket.socket()
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=connection, limit=1024)
        opened.append(writer)
        return reader, writer

    try:
        yield connect, server
    finally:
        for writer in opened:
            writer.transport.abort()
        server.should_exit = True
        await task


async def talk(connect, *pieces):
    """Sends pieces one after the other, and gives all that comes back until the server closes."""
    reader, writer = await connect()
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    return await read_to_the_end(reader)


async def read_to_the_end(reader):
    received = b""
    async with asyncio.timeout(30):
        try:
            while piece := await reader.read(2**16):
                received += piece
        except ConnectionError:  # closed while more was coming in
            pass
    return received


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def run(scenario, **settings):
    async def main():
        async with listening(**settings) as (connect, server):
            return await scenario(connect, server)

    return asyncio.run(main())


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
def test_headers_over_the_limit(end):
    async def scenario(connect, _):
        return await talk(connect, GET + b"X-Much: " + b"a" * 3000 + end)

    head, _, body = run(scenario, max_header_bytes=2048).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert b"connection: close" in head.lower()
    problem = json.loads(body)
    assert problem["error"]["code"] == "headers_too_large"
    assert "2048 bytes (max_header_bytes)" in problem["detail"]


def test_headers_that_stop_coming_end_the_connection():
    async def scenario(connect, _):
        return await talk(connect, GET), await talk(connect)

    assert run(scenario, header_timeout_s=0.05) == (b"", b"")


def test_a_kept_connection_has_the_limits_too():
    async def scenario(connect, _):
        return await talk(connect, GET + b"\r\n", GET)

    assert run(scenario, header_timeout_s=0.05).count(b"HTTP/1.1 200 ") == 1


def test_the_rest_of_a_refused_body_is_not_awaited_for_ever():
    async def scenario(connect, _):
        head = (
            b"POST /v1/flow HTTP/1.1\r\nHost: test\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\n"
        )
        return await talk(connect, head + b"x")

    timeouts = {"header_timeout_s": 0.05, "body_timeout_s": 0.05}
    assert run(scenario, **timeouts).startswith(b"HTTP/1.1 415 ")


MUCH = 2**22  # bytes, of which the kernels do not hold all


def read_behind(port, request):
    """Send all of a request before a reply is looked for, as many callers do; give the reply."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(request)
        reply = b""
        while piece := connection.recv(2**16):  # up to an end, not a reset
            reply += piece
    return reply


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: %d\r\n\r\n" % MUCH,
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % MUCH,
    ],
)
@pytest.mark.parametrize(
    ("limits", "status"),
    [({"max_body_bytes": 2**16}, 413), ({"max_buffered_bytes": 2**16}, 429), ({"body_timeout_s": 1e-9}, 408)],
)
def test_a_caller_who_still_sends_reads_why_its_body_is_refused(head, limits, status):
    async def scenario(connect, server):
        kind = b"Content-Type: application/json\r\n"
        start = b"POST /v1/embeddings HTTP/1.1\r\nHost: test\r\n" + kind + head
        end = b"" if b"Length" in head else b"\r\n0\r\n\r\n"
        port = server.servers[0].sockets[0].getsockname()[1]
        reply = await asyncio.to_thread(read_behind, port, start + b" " * MUCH + end)
        await until(lambda: not server.server_state.connections)
        return reply

    assert run(scenario, **limits).startswith(b"HTTP/1.1 %d " % status)


def test_a_caller_who_still_sends_headers_reads_why_they_are_refused():
    async def scenario(connect, server):
        port = server.servers[0].sockets[0].getsockname()[1]
        return await asyncio.to_thread(read_behind, port, GET + b"X-Much: " + b"a" * 2**19 + b"\r\n\r\n")

    assert run(scenario, header_timeout_s=0.05).startswith(b"HTTP/1.1 431 ")


def test_the_rest_of_a_refused_body_is_read_for_a_while_alone():
    async def scenario(connect, server):
        head = b"POST /v1/flow HTTP/1.1\r\nHost: test\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        reader, writer = await connect()
        writer.write(head + b"Content-Length: 99\r\n\r\nx")
        reply = await read_to_the_end(reader)  # half closed
        await until(lambda: not server.server_state.connections)
        return reply

    limits = {"max_body_bytes": 9, "header_timeout_s": 0.05, "body_timeout_s": 0.05}
    assert run(scenario, **limits).startswith(b"HTTP/1.1 413 ")


def test_a_server_that_ends_waits_for_no_refused_body():
    async def scenario(connect, server):
        head = b"POST /v1/flow HTTP/1.1\r\nHost: test\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        reader, writer = await connect()
        writer.write(head + b"Content-Length: 99\r\n\r\nx")
        return await read_to_the_end(reader)

    assert run(scenario, max_body_bytes=9).startswith(b"HTTP/1.1 413 ")  # and run comes back


def test_connections_over_the_limit_are_closed():
    async def scenario(connect, server):
        held = [await connect() for _ in range(2)]
        while len(server.server_state.connections) < 2:
            await asyncio.sleep(0.001)
        reader, writer = await connect()
        writer.write(GET + b"\r\n")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        held[0][1].write(GET + b"Connection: close\r\n\r\n")
        return await held[0][0].read()

    assert run(scenario, max_connections=2).startswith(b"HTTP/1.1 200 ")


def test_a_request_in_pieces_is_served():
    async def scenario(connect, _):
        return await talk(
            connect, *(GET[i : i + 7] for i in range(0, len(GET), 7)), b"Connection: close\r\n\r\n"
        )

    assert run(scenario).startswith(b"HTTP/1.1 200 ")


def test_not_http_at_all():
    async def scenario(connect, _):
        return await talk(connect, b"\x16\x03\x01\x02\x00\x01\x00" * 10)

    assert run(scenario).startswith(b"HTTP/1.1 400 ")


def chunked(headers=b"", path=b"/v1/flow"):
    """The start of a request whose multipart body comes in chunks; the body goes on."""
    start = b'--x\r\nContent-Disposition: form-data; name="frame1"; filename="1"\r\n\r\n'
    return (
        b"POST %b HTTP/1.1\r\nHost: test\r\nContent-Type: multipart/form-data; boundary=x\r\n" % path
        + headers
        + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(start), start)
    )


async def flood(connect, start, piece, answered_first, most=2**24):
    """Sends the piece over and over, until the server closes or all is sent. Gives what it answered."""
    reader, writer = await connect()
    writer.write(start)
    early = await reader.readuntil(b"}}") if answered_first else b""
    answer = asyncio.create_task(read_to_the_end(reader))
    sent = 0
    try:
        while sent < most and not answer.done():
            writer.write(piece)
            sent += len(piece)
            await writer.drain()
    except ConnectionError:
        pass
    assert sent < most, "the server took it all"
    return early + await answer


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"0\r\n", b"X: y\r\n" * 5000),  # trailers
        (b"0\r\nX: ", b"y" * 30000),  # one trailer
        (b"0\r\n", b"X" * 30000),  # the name of one
        (b"1;", b"e" * 30000),  # the extension of a chunk
        (b"", b"1;" + b"e" * 3000 + b"\r\na\r\n"),  # of each chunk
        (b"", b"1\r\na\r\n" * 5000),  # chunks of one byte
        (b"0" * 1000, b"0" * 30000),  # the size of a chunk
    ],
)
@pytest.mark.parametrize("is_known", [True, False])
def test_what_is_no_body_is_bounded_behind_the_headers_too(start, piece, is_known, tmp_path):
    async def scenario(connect, server):
        reply = await flood(connect, chunked() + start, piece, answered_first=not is_known)
        await until(lambda: not server.server_state.connections)
        return reply

    settings = {}
    if not is_known:
        settings["api_keys_file"] = tmp_path / "keys"
        add_key(settings["api_keys_file"], "somebody")
    reply = run(scenario, **settings)
    assert reply.count(b"HTTP/1.1 ") <= 1
    # a caller who is cut off while it sends may not get to see the reply
    assert reply.startswith(b"HTTP/1.1 431 " if is_known else b"HTTP/1.1 401 ") or (is_known and not reply)


def test_trailers_over_the_limit_in_one_piece():
    async def scenario(connect, _):
        return await talk(connect, chunked() + b"0\r\n" + b"X: y\r\n" * 400 + b"\r\n")

    assert run(scenario, max_header_bytes=2048).startswith(b"HTTP/1.1 431 ")


def test_trailers_are_not_headers(encode, picture):
    async def scenario(connect, _):
        whole = chunked(b"Connection: close\r\n") + b"0\r\nX-Request-ID: trailer\r\n\r\n"
        return await talk(connect, whole)

    reply = run(scenario)
    assert reply.startswith(b"HTTP/1.1 400 ")  # the body ends before its boundary
    assert b"x-request-id: " in reply
    assert b"trailer" not in reply


def test_chunks_of_a_usual_size_are_served():
    async def scenario(connect, _):
        body = b"%x\r\n%b\r\n" % (100, b"a" * 100) * 20000  # 2 MB, and 140 kB of sizes
        end = b"9\r\n\r\n--x--\r\n\r\n0\r\n\r\n"
        return await talk(connect, chunked(b"Connection: close\r\n") + body + end)

    assert b'"code":"invalid_input"' in run(scenario)  # frame2 is missing


@pytest.mark.parametrize("count", [1, 5000])
def test_requests_are_not_pipelined(count):
    async def scenario(connect, _):
        return await talk(connect, (GET + b"\r\n") * (1 + count))

    reply = run(scenario)
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert reply.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in reply


def test_a_caller_who_asked_for_more_and_hangs_up_is_noticed(pair):
    engine = FakeEngine()

    async def scenario(connect, server):
        service = server.config.app.state.service
        engine.fault = "hang"
        _, writer = await connect()
        writer.write(post("/v1/flow", pair) + post("/v1/flow", pair))
        await until(lambda: service.admission.inside == 1)
        writer.close()
        await until(lambda: service.admission.inside == 0)

    run(scenario, engine=engine)


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
def test_other_protocols_are_not_spoken(protocol):
    async def scenario(connect, _):
        head = GET + b"Connection: Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n"
        return await talk(connect, head, GET + b"\r\n")

    reply = run(scenario)
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert reply.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in reply


def test_a_refused_body_is_not_asked_for():
    async def scenario(connect, _):
        head = b"POST /v1/flow HTTP/1.1\r\nHost: test\r\nContent-Type: text/plain\r\nExpect: 100-continue\r\n"
        return await talk(connect, head + b"Content-Length: 9\r\n\r\n")

    timeouts = {"header_timeout_s": 0.05, "body_timeout_s": 0.05}
    assert run(scenario, **timeouts).startswith(b"HTTP/1.1 415 ")


def test_an_idle_connection_makes_room_for_a_new_one():
    async def scenario(connect, server):
        reader, writer = await connect()
        writer.write(GET + b"\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(b'{"status":"ok"}'))
        replies = [await talk(connect, GET + b"Connection: close\r\n\r\n")]
        return head, await read_to_the_end(reader), *replies

    first, rest, second = run(scenario, max_connections=1)
    assert first.startswith(b"HTTP/1.1 200 ")
    assert rest == b""
    assert second.startswith(b"HTTP/1.1 200 ")


def test_a_silent_connection_makes_room_before_one_that_was_answered(monkeypatch):
    monkeypatch.setattr("mcjepa_server.http.protocol._PATIENT_S", 0.0)

    async def scenario(connect, server):
        silent, _ = await connect()
        reader, writer = await connect()
        heads = []
        for _ in range(2):
            writer.write(GET + b"\r\n")
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            await reader.readexactly(len(b'{"status":"ok"}'))
            if len(heads) == 1:
                heads.append(await talk(connect, GET + b"Connection: close\r\n\r\n"))
        return await read_to_the_end(silent), heads

    rest, heads = run(scenario, max_connections=2)
    assert rest == b""
    assert [head.startswith(b"HTTP/1.1 200 ") for head in heads] == [True, True, True]


HALF_OPEN = [
    b"GET / HT",
    b"\r\n",
    GET + b"X-Half: ",
    b"POST /v1/flow HTTP/1.1\r\nHost: test\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nx",
    b"POST /v1/flow HTTP/1.1\r\nHost: test\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    b"Content-Length: 9\r\n\r\n-",
    b"POST /v1/flow HTTP/1.1\r\nHost: test\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n1\r\n-\r\n",
]


@pytest.mark.parametrize("half", HALF_OPEN)
def test_what_is_half_open_makes_room(half, monkeypatch):
    monkeypatch.setattr("mcjepa_server.http.protocol._PATIENT_S", 0.0)

    async def scenario(connect, server):
        reader, writer = await connect()
        writer.write(half)
        await until(lambda: any(c._framing or c._body for c in server.server_state.connections))
        return await talk(connect, GET + b"Connection: close\r\n\r\n"), await read_to_the_end(reader)

    new, old = run(scenario, max_connections=1)
    assert new.startswith(b"HTTP/1.1 200 ")
    assert old == b"" or old.startswith(b"HTTP/1.1 415 ")


def test_a_request_at_work_never_makes_room(monkeypatch, pair):
    monkeypatch.setattr("mcjepa_server.http.protocol._PATIENT_S", 0.0)
    engine = FakeEngine()

    async def scenario(connect, server):
        service = server.config.app.state.service
        engine.fault = "hang"
        _, writer = await connect()
        writer.write(post("/v1/flow", pair) + b"\r\n")  # some old callers add a line
        await until(lambda: service.admission.inside == 1)
        with suppress(ConnectionError):
            assert await talk(connect, GET + b"\r\n") == b""
        (connection,) = server.server_state.connections
        return service.admission.inside, connection._patience

    assert run(scenario, engine=engine, max_connections=1) == (1, None)


SENT_LATE = [
    (b"Content-Length: 10\r\n\r\n12345", b"67890"),
    (b"Content-Length: 10\r\n\r\n12345", b"67890\r\n"),
    (b"Content-Length: 10\r\nExpect: 100-continue\r\n\r\n", b"1234567890"),
    (b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n", b"0\r\nX: y\r\n\r\n"),
]


@pytest.mark.parametrize(("head", "rest"), SENT_LATE)
def test_a_body_that_ends_after_its_answer_leaves_the_connection_idle(head, rest):
    requests = [
        (method, path)
        for method in (b"POST", b"HEAD", b"GET")
        for path in (b"/nothing", b"/healthz", b"/v1/flow")
    ]

    async def one(connect, server, method, path):
        reader, writer = await connect()
        await until(lambda: server.server_state.connections)
        (connection,) = server.server_state.connections
        writer.write(method + b" " + path + b" HTTP/1.1\r\nHost: test\r\n" + head)
        await until(lambda: connection.cycle is not None and connection.cycle.response_complete)
        writer.write(rest)
        await until(lambda: connection._is_in_head or connection.transport.is_closing())
        await until(lambda: connection.timeout_keep_alive_task or connection.transport.is_closing())
        if not connection.transport.is_closing():  # and it can be used again
            writer.write(GET + b"Connection: close\r\n\r\n")
        await read_to_the_end(reader)
        await until(lambda: not server.server_state.connections)
        return connection

    async def scenario(connect, server):
        return [await one(connect, server, *request) for request in requests]

    assert len(run(scenario)) == len(requests)


def test_a_connection_that_was_reset_leaves_no_timer():
    async def scenario(connect, server):
        reader, writer = await connect()
        writer.write(GET + b"\r\n")
        await reader.readuntil(b"}")
        (connection,) = server.server_state.connections
        linger = struct.pack("ii", 1, 0)  # a reset, not an end
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
        await until(lambda: not server.server_state.connections)
        return connection.timeout_keep_alive_task

    assert run(scenario) is None


def test_idle_connections_are_kept_as_long_as_is_set():
    settings = Settings(keep_alive_s=33)
    server = make_server(settings, create_app(settings, FakeEngine()))
    assert server.config.timeout_keep_alive == 33
    assert Settings().keep_alive_s > 60  # which many balancers take


def post(path, files):
    request = httpx2.Request("POST", f"http://test{path}", files=files)
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + request.read()


@pytest.fixture
def large(encode):
    """Two frames of a few kB whose flow is 6 MB, more than the system takes over."""
    data = encode(np.zeros((800, 1000, 3), np.uint8))
    return {"frame1": ("1.png", data), "frame2": ("2.png", data)}


@pytest.mark.parametrize("path", ["/v1/flow", "/v1/analyze"])
def test_a_reply_that_is_not_read_is_dropped_and_keeps_its_place_until_then(large, path):
    async def scenario(connect, server):
        admission = server.config.app.state.service.admission
        reader, writer = await connect(receive_buffer=4096)
        files = [("frames", part) for part in large.values()] if "analyze" in path else large
        writer.write(post(path, files))
        await until(lambda: any(c.flow.write_paused for c in server.server_state.connections))
        inside, pixels = admission.inside, admission.pixels
        await until(lambda: not server.server_state.connections)
        await until(lambda: admission.inside == 0)
        return inside, pixels, await read_to_the_end(reader)

    inside, pixels, reply = run(scenario, write_timeout_s=0.3)
    assert (inside, pixels) == (1, 0)  # it is inside, and costs the engine nothing any more
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert len(reply) < 8 * 1000 * 800


def test_a_reply_that_is_read_too_slowly_is_cut_off(large, monkeypatch):
    """Each piece is read in time, which is not enough: all of them would hold a place for minutes."""
    monkeypatch.setattr("mcjepa_server.http.protocol._SLOW", 2**30)

    async def scenario(connect, server):
        reader, writer = await connect(receive_buffer=4096)
        writer.write(post("/v1/flow", large))
        received = 0
        with suppress(ConnectionError):
            while piece := await reader.read(2**14):
                received += len(piece)
                await asyncio.sleep(0.005)
        return received

    assert run(scenario, write_timeout_s=0.5) < 8 * 1000 * 800


def test_a_large_reply_is_whole(large):
    async def scenario(connect, _):
        return await talk(connect, post("/v1/flow", large).replace(b"\r\n", b"\r\nConnection: close\r\n", 1))

    _, _, body = run(scenario).partition(b"\r\n\r\n")
    assert body[:4] == b"PIEH"
    assert len(body) == 12 + 8 * 1000 * 800


def test_a_connection_is_kept_after_a_large_reply(large):
    """The caller has all of it before the server has finished with it."""

    async def scenario(connect, _):
        reader, writer = await connect()
        sizes = []
        for _ in range(3):
            writer.write(post("/v1/flow?format=npz", large))
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(re.search(rb"content-length: (\d+)", head)[1])
            await reader.readexactly(size)
            sizes.append(size)
        return sizes

    assert min(run(scenario)) > 8 * 1000 * 800


def test_small_replies_that_are_not_read_end_the_connection():
    async def scenario(connect, server):
        _, writer = await connect(receive_buffer=4096)
        (await connect())[1].write(b"")
        answered = 0
        while len(server.server_state.connections) > 1 or not answered:
            writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: test\r\n\r\n")
            total = server.server_state.total_requests
            await until(
                lambda: server.server_state.total_requests > total or len(server.server_state.connections) < 2  # noqa: B023
            )
            answered += 1
        return answered

    assert run(scenario, write_timeout_s=0.3) > 1


@pytest.mark.parametrize("stage", ["upload", "engine", "reply"])
def test_a_caller_who_hangs_up_leaves_nothing_behind(stage, large):
    engine = FakeEngine()

    async def scenario(connect, server):
        service = server.config.app.state.service
        _, writer = await connect(receive_buffer=4096)
        whole = post("/v1/flow", large)
        if stage == "engine":
            engine.fault = "hang"
        writer.write(whole if stage != "upload" else whole[:-10])
        await until(
            {
                "upload": lambda: service.bodies.used > 0,
                "engine": lambda: service.admission._slots.locked(),
                "reply": lambda: any(c.flow.write_paused for c in server.server_state.connections),
            }[stage]
        )
        writer.transport.abort()
        await until(lambda: not server.server_state.tasks)
        return service.admission.inside, service.admission.pixels, service.bodies.used

    assert run(scenario, engine=engine, max_concurrency=1) == (0, 0, 0)
