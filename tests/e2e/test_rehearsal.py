"""Gateways behind a real load balancer: members leave, die, return and are added under load."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter

import cv2
import httpx2
import numpy as np
import pytest
from mcjepa_client import Client

# An engine without weights that takes as long as one on a GPU might.
GATEWAY = """
import asyncio, sys

if __name__ == "__main__":
    from mcjepa_server import Settings, create_app
    from mcjepa_server.cli import serve
    from mcjepa_server.engines.fake import FakeEngine

    class SlowEngine(FakeEngine):
        async def infer_flow(self, frames, backward):
            await asyncio.sleep(0.1)
            return await super().infer_flow(frames, backward)

    settings = Settings()
    sys.exit(serve(settings, create_app(settings, SlowEngine())))
"""
SETTINGS = {"MCJEPA_MAX_CONCURRENCY": "4", "MCJEPA_MAX_QUEUE_WAIT_S": "60", "MCJEPA_DECODE_PROCESSES": "0"}
CALLERS = 6


def wait_until(condition, seconds=120):
    """Looks ten times a second."""
    pause = threading.Event()
    for _ in range(seconds * 10):
        if condition():
            return
        pause.wait(0.1)
    raise AssertionError(f"not within {seconds} s")


class Gateway:
    """A gateway on a port that stays its own, so that it can be started again."""

    def __init__(self, name, port, folder):
        self.name, self.port = name, port
        self._script, self._log = folder / "gateway.py", folder / f"{name}.log"
        self._script.write_text(GATEWAY)
        self._process = None

    def start(self):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MCJEPA_")}
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, self._script],
                env={**kept, **SETTINGS, "MCJEPA_PORT": str(self.port)},
                stdout=log,
                stderr=log,
            )
        with Client(f"http://127.0.0.1:{self.port}") as client:
            client.wait_until_ready(120)

    def stop(self, number=signal.SIGTERM):
        """The exit code."""
        if self._process is None:
            return None
        self._process.send_signal(number)
        code = self._process.wait(timeout=120)
        self._process = None
        return code


class Cluster:
    """Up to four gateways behind an HAProxy with the configuration of deploy/."""

    def __init__(self, root, folder, ports):
        port, *ports = ports
        self.url = f"http://127.0.0.1:{port}"
        self.gateways = [Gateway(f"gateway{i + 1}", port, folder) for i, port in enumerate(ports)]
        members = "".join(f"    server {g.name} 127.0.0.1:{g.port}\n" for g in self.gateways)
        text, binds = re.subn(
            r"bind :8080", f"bind 127.0.0.1:{port}", (root / "deploy/haproxy/haproxy.cfg").read_text()
        )
        text, found = re.subn(r"(    server \S+ \S+\n)+", members, text)
        assert (binds, found) == (1, 1)
        config = folder / "haproxy.cfg"
        config.write_text(text)
        with open(folder / "haproxy.log", "ab") as log:
            self._process = subprocess.Popen(
                [shutil.which("haproxy"), "-db", "-f", config], stdout=log, stderr=log
            )

    def wait_until_ready(self):
        with Client(self.url) as client:
            client.wait_until_ready(120)

    def close(self):
        for gateway in self.gateways:
            gateway.stop(signal.SIGKILL)
        self._process.kill()
        self._process.wait(timeout=60)


@pytest.fixture
def cluster(root, tmp_path, free_ports):
    if shutil.which("haproxy") is None:
        pytest.skip("HAProxy is not installed: apt-get install haproxy")
    cluster = Cluster(root, tmp_path, free_ports(5))
    yield cluster
    cluster.close()


class Load:
    """Callers that ask without a pause from `with` to its end, and check each answer.

    `served` counts the answers of each gateway, `lost` has whatever else came.
    """

    def __init__(self, cluster, ask):
        self.served, self.lost = Counter(), []
        self._cluster, self._ask = cluster, ask
        self._over, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._call) for _ in range(CALLERS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=120)

    def has_served(self, *gateways):
        """Waits until each of them has answered again."""
        before = Counter(self.served)
        wait_until(lambda: all(self.served[g.name] > before[g.name] for g in gateways))

    def _call(self):
        while not self._over.is_set():
            try:
                name = self._ask(self._cluster.url)
            except Exception as error:  # whatever it is, the request is lost
                self.lost.append(repr(error))
            else:
                with self._lock:
                    self.served[name] += 1


@pytest.fixture
def pair():
    """Two PNG files larger than the balancer's buffer, and the flow that the engine answers for them."""
    frames = np.random.default_rng(3).integers(0, 256, (2, 128, 192, 3), np.uint8)
    files = [cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1].tobytes() for frame in frames]
    flow = frames[0, ..., :2].astype(np.float32) / 16 * np.array([1, -1], np.float32)
    assert all(len(file) > 2**16 for file in files)
    return files, flow


@pytest.fixture
def ask_once(pair):
    """One request on a kept connection of each thread, without a second attempt."""
    files, expected = pair
    connections = {}

    def ask(url):
        if threading.get_ident() not in connections:
            connections[threading.get_ident()] = httpx2.Client(trust_env=False, timeout=60)
        http = connections[threading.get_ident()]
        parts = [(name, (name, data)) for name, data in zip(("frame1", "frame2"), files, strict=True)]
        reply = http.post(f"{url}/v1/flow?format=npy", files=parts)
        assert reply.status_code == 200, (reply.status_code, reply.text[:200])
        flow = np.frombuffer(reply.content[-expected.nbytes :], np.float32).reshape(expected.shape)
        assert np.abs(flow - expected).max() < 1e-3
        return reply.headers["x-gateway"]

    yield ask
    for http in connections.values():
        http.close()


@pytest.fixture
def ask_by_sdk(pair):
    """As a user of the SDK does, with the retries it has."""
    files, expected = pair

    def ask(url):
        with Client(url, max_retries=5) as client:
            assert np.abs(client.flow(*files).flow - expected).max() < 1e-3
        return "some gateway"

    return ask


def test_nothing_is_sticky(cluster, ask_once):
    """Requests of one caller, on one connection, go to all of them."""
    for gateway in cluster.gateways[:3]:
        gateway.start()
    cluster.wait_until_ready()
    served = set()
    wait_until(lambda: served.add(ask_once(cluster.url)) or len(served) == 3)


@pytest.mark.slow
def test_members_that_leave_return_and_are_added_lose_nothing(cluster, ask_once):
    *members, added = cluster.gateways
    for gateway in members:
        gateway.start()
    cluster.wait_until_ready()
    with Load(cluster, ask_once) as load:
        load.has_served(*members)
        for gateway in members:  # a rolling restart
            assert gateway.stop() == 0
            gateway.start()
            load.has_served(gateway)
        added.start()
        load.has_served(added)
        assert members[0].stop() == 0
        load.has_served(*members[1:], added)
    assert load.lost == []
    assert set(load.served) == {gateway.name for gateway in cluster.gateways}


@pytest.mark.slow
def test_members_that_are_killed_cost_the_sdk_nothing(cluster, ask_by_sdk):
    """The requests inside are lost with them; the balancer says 502, and the SDK asks again."""
    members = cluster.gateways[:3]
    for gateway in members:
        gateway.start()
    cluster.wait_until_ready()
    with Load(cluster, ask_by_sdk) as load:
        for gateway in members[:2]:
            answered = load.served.total()
            wait_until(lambda: load.served.total() > answered + CALLERS)  # noqa: B023 - called at once
            assert gateway.stop(signal.SIGKILL) == -signal.SIGKILL
            gateway.start()
    assert load.lost == []


def test_the_configuration_is_valid(root, tmp_path):
    if shutil.which("haproxy") is None:
        pytest.skip("HAProxy is not installed: apt-get install haproxy")
    config = root / "deploy/haproxy/haproxy.cfg"
    done = subprocess.run(["haproxy", "-c", "-f", config], capture_output=True, text=True, timeout=60)
    assert (done.returncode, "warning" in done.stderr.lower()) == (0, False), done.stderr
