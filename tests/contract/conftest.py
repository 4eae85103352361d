"""The real clients against the real app on the fake engine, in one process."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import ExitStack

import httpx2
import numpy as np
import pytest
from mcjepa_client import AsyncClient, Client
from mcjepa_server import Settings, create_app
from mcjepa_server.engines.fake import FakeEngine
from starlette.testclient import TestClient

BASE_URL = "http://testserver"


#: A gateway on the engine without weights, in a process of its own.
SERVER = """
import socket, sys
import uvicorn
from mcjepa_server import Settings, create_app
from mcjepa_server.engines.fake import FakeEngine

listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print(listener.getsockname()[1], flush=True)
app = create_app(Settings(), FakeEngine())
uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])
"""


class Server:
    """A process that can be killed and started again on the same port."""

    def __init__(self):
        self.port = 0
        self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MCJEPA_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(self.port)], env=environment, stdout=subprocess.PIPE
        )
        self.port = int(self.process.stdout.readline())

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=60)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def servers():
    started = []

    def start():
        started.append(Server())
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture(scope="module")
def server(servers):
    return servers()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("MCJEPA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MCJEPA_DECODE_PROCESSES", "0")  # starting some takes a second


@pytest.fixture
def connect():
    """Starts an app with these settings and gives a client of it that does not retry."""
    with ExitStack() as stack:

        def start(engine=None, **settings):
            app = create_app(Settings(**settings), engine or FakeEngine())
            http = stack.enter_context(TestClient(app, raise_server_exceptions=False))
            return Client(BASE_URL, http_client=http, max_retries=0)

        yield start


@pytest.fixture
def client(connect):
    return connect()


@pytest.fixture
def run_async():
    """Runs a coroutine function with an async client of a fresh app."""

    def run(call, **settings):
        app = create_app(Settings(**settings), FakeEngine())

        async def body():
            async with (
                app.router.lifespan_context(app),
                httpx2.AsyncClient(transport=httpx2.ASGITransport(app)) as http,
            ):
                client = AsyncClient(BASE_URL, http_client=http)
                await client.wait_until_ready()
                return await call(client)

        return asyncio.run(body())

    return run


@pytest.fixture
def frames():
    """N random RGB frames: every pixel counts."""

    def make(count=2, height=48, width=80):
        return list(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8))

    return make


@pytest.fixture
def flow_of():
    """What the fake engine answers for the flow that starts from this frame, (H, W, 2)."""

    def compute(frame):
        return np.stack([frame[..., 0] / np.float32(16), frame[..., 1] / np.float32(-16)], axis=-1)

    return compute
