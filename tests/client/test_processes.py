"""A client in several processes and event loops: nobody reads another's replies, and nothing deadlocks."""

import asyncio
import base64
import json
import multiprocessing
import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import mcjepa_client
import numpy as np
import pytest
from mcjepa_client import AsyncClient, Client

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system"),
    # The test forks where threads run, as its callers do; Python 3.12 warns of that.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]


class Handler(BaseHTTPRequestHandler):
    """Answers an image b"N" with the vector (N, 1), over connections that are kept."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (image,) = [base64.b64decode(item) for item in body["input"]]
        self.server.asked.append((int(image), self.client_address[1]))
        vector = base64.b64encode(np.array([int(image), 1], "<f4").tobytes()).decode()
        reply = json.dumps({"data": [{"index": 0, "embedding": vector}], "model": "m"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """What was asked is in `asked`: the number in the image, and the port from which it came."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.asked = []
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def in_forks(call, count=4):
    """What `call(number)` gives in each of several forked processes, at the same time."""
    children = []
    for number in range(1, count + 1):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # a child that hangs ends, and its result is missing
            try:
                try:
                    result = call(number)
                except BaseException as error:
                    result = error
                os.write(writer, pickle.dumps(result))
            finally:
                os._exit(0)
        os.close(writer)
        children.append((child, reader))
    results = []
    for child, reader in children:
        with open(reader, "rb") as file:
            results.append(pickle.loads(file.read()))
        os.waitpid(child, 0)
    return results


def ask(client, number, times=20):
    return {float(client.embed(b"%d" % number).embeddings[0, 0]) for _ in range(times)}


def ask_async(client, number, times=20):
    async def call():
        return {float((await client.embed(b"%d" % number)).embeddings[0, 0]) for _ in range(times)}

    return asyncio.run(call())


def test_forked_processes_have_connections_of_their_own(server):
    with Client(server.url) as client:
        assert ask(client, 0, 1) == {0.0}
        assert in_forks(lambda number: ask(client, number)) == [{1.0}, {2.0}, {3.0}, {4.0}]
        assert ask(client, 0, 1) == {0.0}
    ports = {number: {port for asked, port in server.asked if asked == number} for number in range(5)}
    assert [len(found) for found in ports.values()] == [1] * 5, "each keeps its connection, the parent too"
    assert len(set.union(*ports.values())) == 5


def test_so_have_forks_of_forks_and_threads_in_them(server):
    def grandchildren(number):
        inner = in_forks(lambda inner: ask(client, 10 * number + inner, 3), 2)
        with ThreadPoolExecutor(4) as threads:
            outer = set.union(*threads.map(lambda _: ask(client, number, 3), range(4)))
        return inner, outer

    with Client(server.url) as client:
        ask(client, 0, 1)
        found = in_forks(grandchildren, 2)
    assert found == [([{11.0}, {12.0}], {1.0}), ([{21.0}, {22.0}], {2.0})]


def test_a_fork_of_an_async_client_has_connections_of_its_own(server):
    client = AsyncClient(server.url)
    assert ask_async(client, 0, 1) == {0.0}
    assert in_forks(lambda number: ask_async(client, number)) == [{1.0}, {2.0}, {3.0}, {4.0}]


def test_an_event_loop_that_forks_keeps_its_connections(server):
    async def call():
        async with AsyncClient(server.url) as client:
            await client.embed(b"0")
            context = multiprocessing.get_context("fork")
            children = [context.Process(target=ask_async, args=(client, number)) for number in (1, 2)]
            for child in children:
                child.start()
            for child in children:
                await asyncio.to_thread(child.join)
            await client.embed(b"0")
            return [child.exitcode for child in children]

    assert asyncio.run(call()) == [0, 0]
    ports = {number: {port for asked, port in server.asked if asked == number} for number in range(3)}
    assert [len(found) for found in ports.values()] == [1, 1, 1]
    assert len(set.union(*ports.values())) == 3


def test_locks_that_are_held_at_the_fork_do_not_stop_the_child(server):
    with Client(server.url) as client:
        ask(client, 0, 1)
        with client._servers._lock:  # as another thread may have it
            context = multiprocessing.get_context("fork")
            child = context.Process(target=ask, args=(client, 1), daemon=True)
            child.start()
            child.join(30)
        assert child.exitcode == 0


def test_a_child_that_closes_leaves_its_parents_connections_open(server):
    with Client(server.url) as client:
        ask(client, 0, 1)
        assert in_forks(lambda number: (ask(client, number), client.close())[0], 2) == [{1.0}, {2.0}]
        ask(client, 0, 1)
    assert len({port for asked, port in server.asked if asked == 0}) == 1


@pytest.mark.parametrize("kind", ["blocking", "async"])
def test_connections_that_were_passed_in_stay_in_their_process(server, kind):
    if kind == "blocking":
        http = httpx2.Client()
        client = Client(server.url, http_client=http)
        ask(client, 0, 1)
        (error,) = in_forks(lambda number: ask(client, number), 1)
        http.close()
    else:
        client = AsyncClient(server.url, http_client=httpx2.AsyncClient())
        (error,) = in_forks(lambda number: ask_async(client, number), 1)
    assert isinstance(error, mcjepa_client.InputError)
    assert "http_client" in str(error)
    assert {asked for asked, _ in server.asked} <= {0}


def test_threads_that_begin_together_have_one_set_of_connections():
    client = Client("http://server.test")
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(lambda _: id(client._http), range(50)))) == 1
    client.close()


def test_each_event_loop_has_connections_that_end_with_it(server):
    client = AsyncClient(server.url)
    assert [ask_async(client, number, 3) for number in (1, 2, 3)] == [{1.0}, {2.0}, {3.0}]
    assert client._pool._clients == {}
    with ThreadPoolExecutor(4) as threads:  # and several at a time
        assert list(threads.map(lambda n: ask_async(client, n, 5), range(4))) == [{0.0}, {1.0}, {2.0}, {3.0}]
    asyncio.run(client.close())
    with pytest.raises(mcjepa_client.ClientClosedError):
        ask_async(client, 1, 1)


def test_closing_ends_the_connections_of_a_loop_that_goes_on(server):
    async def call():
        client = AsyncClient(server.url)
        await client.embed(b"1")
        http = await client._http()
        await client.close()
        await client.close()
        return http.is_closed

    assert asyncio.run(call())


def test_trio_works_as_asyncio_does(server, tmp_path):
    trio = pytest.importorskip("trio", reason="trio is not installed")
    client = AsyncClient(server.url)

    async def call(number):
        return float((await client.embed(b"%d" % number)).embeddings[0, 0])

    assert [trio.run(call, 1), trio.run(call, 2), asyncio.run(call(3))] == [1.0, 2.0, 3.0]

    async def video():
        async for _ in client.video(tmp_path):
            pass

    (tmp_path / "0.png").write_bytes(b"never read")
    with pytest.raises(mcjepa_client.InputError, match="asyncio"):
        trio.run(video)


@pytest.mark.parametrize("cls", [Client, AsyncClient])
def test_a_client_pickles_as_its_settings(cls, monkeypatch, server):
    monkeypatch.setenv("MCJEPA_API_KEY", "secret")
    urls = [server.url, "http://other.test/prefix"]
    client = cls(urls, timeout=7.0, max_retries=5, headers={"X-Team": "a"})
    monkeypatch.delenv("MCJEPA_API_KEY")
    with client._servers._lock:
        copy = pickle.loads(pickle.dumps(client))
    assert (type(copy), copy.base_urls, copy.timeout, copy.max_retries) == (cls, tuple(urls), 7.0, 5)
    assert copy._headers == client._headers
    assert copy._headers["Authorization"] == "Bearer secret"
    copy = pickle.loads(pickle.dumps(cls(server.url)))
    assert (ask if cls is Client else ask_async)(copy, 5, 1) == {5.0}
    if cls is Client:
        client.close()
        copy.close()


@pytest.mark.parametrize("http", [httpx2.Client, httpx2.AsyncClient])
def test_a_client_with_connections_that_were_passed_in_does_not_pickle(http):
    client = (Client if http is httpx2.Client else AsyncClient)(http_client=http())
    with pytest.raises(mcjepa_client.InputError, match="http_client"):
        pickle.dumps(client)


def test_connections_of_a_caller_say_that_they_are_of_one_event_loop(embeddings):
    loops = []

    def answer(request):
        loops.append(asyncio.get_running_loop())
        if loops[-1] is not loops[0]:
            raise RuntimeError("Event loop is closed")  # as the transport of a connection of the first does
        return embeddings([1.0])

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    client = AsyncClient("http://server.test", http_client=http)

    async def ask():
        return (await client.embed(b"1")).embeddings

    assert asyncio.run(ask()).shape == (1, 1)
    with pytest.raises(mcjepa_client.InputError, match=r"^http_client"):
        asyncio.run(ask())
