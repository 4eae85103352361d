"""The HTTP layer over a real socket: headers and connections without end, callers that say nothing."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from mcjepa_server import Settings, create_app
from mcjepa_server.cli import make_server
from mcjepa_server.engines.fake import FakeEngine

GET = b"GET /healthz HTTP/1.1\r\nHost: test\r\n"


@asynccontextmanager
async def listening(**settings):
    """A real server on a free port; gives a function that connects to it, and the server."""
    chosen = Settings(port=0, drain_delay_s=0, **settings)
    server = make_server(chosen, create_app(chosen, FakeEngine()))
    task = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.001)
    port = server.servers[0].sockets[0].getsockname()[1]
    opened = []

    async def connect():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        opened.append(writer)
        return reader, writer

    try:
        yield connect, server
    finally:
        for writer in opened:
            writer.close()
        server.should_exit = True
        await task


async def talk(connect, *pieces):
    """Sends pieces one after the other, and gives all that comes back until the server closes."""
    reader, writer = await connect()
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    async with asyncio.timeout(30):
        return await reader.read()


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

    assert run(scenario, header_timeout_s=0.05).startswith(b"HTTP/1.1 415 ")


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
