"""Gateways and Tritons behind a real load balancer: members leave, die, return and are added under load."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from itertools import count, permutations

import cv2
import httpx2
import numpy as np
import onnxruntime
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
        async def infer_flow(self, frames, backward, embed=True, quality="fast"):
            await asyncio.sleep(0.1)
            return await super().infer_flow(frames, backward, embed, quality)

    settings = Settings()
    sys.exit(serve(settings, create_app(settings, SlowEngine())))
"""
TRITON_SETTINGS = {
    "MCJEPA_ENGINE": "triton",
    "MCJEPA_READINESS_INTERVAL_S": "0.5",
    "MCJEPA_DECODE_PROCESSES": "0",
}
SETTINGS = {"MCJEPA_MAX_CONCURRENCY": "4", "MCJEPA_MAX_QUEUE_WAIT_S": "60", "MCJEPA_DECODE_PROCESSES": "0"}
CALLERS = 6


class Gateway:
    """A gateway on a port that stays its own, so that it can be started again."""

    def __init__(self, name, port, log, command, settings):
        self.name, self.port = name, port
        self._log, self._command, self._settings = log, command, settings
        self._process = None

    def start(self):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MCJEPA_")}
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self._command],
                env={**kept, **self._settings, "MCJEPA_PORT": str(self.port)},
                stdout=log,
                stderr=log,
            )
        with Client(f"http://127.0.0.1:{self.port}") as client:
            client.wait_until_ready(300)

    def stop(self, number=signal.SIGTERM):
        """The exit code."""
        if self._process is None:
            return None
        self._process.send_signal(number)
        code = self._process.wait(timeout=300)
        self._process = None
        return code


class Cluster:
    """Gateways, which are not started yet, behind an HAProxy with the configuration of deploy/."""

    def __init__(self, root, folder, ports, command, settings):
        port, *ports = ports
        self.url = f"http://127.0.0.1:{port}"
        names = [f"gateway{i + 1}" for i in range(len(ports))]
        self.gateways = [
            Gateway(name, port, folder / f"{name}.log", command, settings)
            for name, port in zip(names, ports, strict=True)
        ]
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
            client.wait_until_ready(300)

    def close(self):
        for gateway in self.gateways:
            gateway.stop(signal.SIGKILL)
        self._process.kill()
        self._process.wait(timeout=60)


@pytest.fixture
def make_cluster(root, tmp_path, free_ports):
    """make_cluster(number, command, settings) -> a cluster of so many gateways."""
    if shutil.which("haproxy") is None:
        pytest.skip("HAProxy is not installed: apt-get install haproxy")
    made = []

    def make(number, command, settings):
        made.append(Cluster(root, tmp_path, free_ports(1 + number), command, settings))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


@pytest.fixture
def cluster(make_cluster, script_of_gateway):
    """Four gateways with an engine without weights."""
    return make_cluster(4, [script_of_gateway], SETTINGS)


@pytest.fixture
def script_of_gateway(tmp_path):
    script = tmp_path / "gateway.py"
    script.write_text(GATEWAY)
    return script


class Load:
    """Callers that ask from `with` to its end, with `pause` s between answer and question.

    `served` counts the right answers of each gateway, `lost` has whatever else came.
    """

    def __init__(self, cluster, ask, wait_until, pause=0.0):
        self.served, self.lost = Counter(), []
        self._cluster, self._ask, self._wait_until, self._pause = cluster, ask, wait_until, pause
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
        self._wait_until(lambda: all(self.served[g.name] > before[g.name] for g in gateways))

    def has_served_all(self):
        """Waits until there are more new answers than requests under way, twice over."""
        before = self.served.total()
        self._wait_until(lambda: self.served.total() > before + 2 * CALLERS)

    def _call(self):
        while not self._over.wait(self._pause):
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


class AskBySdk:
    """As a user of the SDK does, with the retries it has; pairs: [(two files, their flow (H, W, 2) px)]."""

    def __init__(self, pairs):
        self.replies = Counter()  # of each status, also of those after which the SDK asked again
        self._pairs, self._turn, self._gateway = pairs, count(), threading.local()
        self._http = httpx2.Client(trust_env=False, event_hooks={"response": [self._see]})

    def __call__(self, url):
        files, expected = self._pairs[next(self._turn) % len(self._pairs)]
        with Client(url, max_retries=5, http_client=self._http) as client:
            assert np.abs(client.flow(*files).flow - expected).max() < 1e-3
        return self._gateway.name

    def _see(self, reply):
        self.replies[reply.status_code] += 1
        self._gateway.name = reply.headers.get("x-gateway")

    def close(self):
        self._http.close()


@pytest.fixture
def ask_by_sdk():
    """ask_by_sdk(pairs) -> a function for Load."""
    made = []

    def make(pairs):
        made.append(AskBySdk(pairs))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_nothing_is_sticky(cluster, ask_once, wait_until):
    """Requests of one caller, on one connection, go to all of them."""
    for gateway in cluster.gateways[:3]:
        gateway.start()
    cluster.wait_until_ready()
    served = set()
    wait_until(lambda: served.add(ask_once(cluster.url)) or len(served) == 3)


@pytest.mark.slow
def test_members_that_leave_return_and_are_added_lose_nothing(cluster, ask_once, wait_until):
    *members, added = cluster.gateways
    for gateway in members:
        gateway.start()
    cluster.wait_until_ready()
    with Load(cluster, ask_once, wait_until) as load:
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
def test_members_that_are_killed_cost_the_sdk_nothing(cluster, pair, ask_by_sdk, wait_until):
    """The requests inside are lost with them; the balancer says 502, and the SDK asks again."""
    members = cluster.gateways[:3]
    for gateway in members:
        gateway.start()
    cluster.wait_until_ready()
    with Load(cluster, ask_by_sdk([pair]), wait_until) as load:
        for gateway in members[:2]:
            load.has_served(gateway)
            assert gateway.stop(signal.SIGKILL) == -signal.SIGKILL
            gateway.start()
    assert load.lost == []


@pytest.fixture(scope="session")
def real_pairs(frames, repository):
    """Pairs of PNG files, cuts of real frames, in every order, and the flow of each by ONNX Runtime."""
    session = onnxruntime.InferenceSession(repository / "mcjepa_flow/1/model.onnx")
    cuts = [frame[:192, :192] for frame in frames.images]  # multiples of 64: nothing is padded
    pairs = []
    for cut in permutations(cuts, 2):
        (flow,) = session.run(["flow"], {"frames": np.stack(cut)[np.newaxis]})  # (1, 1, 2, H, W)
        files = [cv2.imencode(".png", img[..., ::-1])[1].tobytes() for img in cut]
        pairs.append((files, flow[0, 0].transpose(1, 2, 0)))
    return pairs


@pytest.mark.slow
@pytest.mark.triton
def test_gateways_and_tritons_are_killed_and_added_and_nothing_is_lost(
    make_cluster, new_triton, real_pairs, ask_by_sdk, wait_until
):
    first, second = new_triton(), new_triton()
    settings = {**TRITON_SETTINGS, "MCJEPA_TRITON_URLS": f"{first.url},{second.url}"}
    cluster = make_cluster(2, ["-m", "mcjepa_server"], settings)
    first.start()
    for gateway in cluster.gateways:
        gateway.start()
    cluster.wait_until_ready()
    ask = ask_by_sdk(real_pairs)

    def has_computed(triton):
        before = triton.counts("mcjepa_flow")[0]
        wait_until(lambda: triton.counts("mcjepa_flow")[0] > before)

    with Load(cluster, ask, wait_until, pause=0.2) as load:
        load.has_served(*cluster.gateways)
        second.start()  # added
        has_computed(second)
        first.kill()
        load.has_served_all()
        first.start()
        has_computed(first)
        for gateway, number, code in zip(
            cluster.gateways, (signal.SIGTERM, signal.SIGKILL), (0, -signal.SIGKILL), strict=True
        ):
            assert gateway.stop(number) == code
            load.has_served_all()
            gateway.start()
            load.has_served(gateway)
        second.kill()
        load.has_served_all()
    print(f"{load.served.total()} answered, statuses {dict(ask.replies)}")  # pytest -rP shows it
    assert load.lost == []


def test_the_configuration_is_valid(root, tmp_path):
    if shutil.which("haproxy") is None:
        pytest.skip("HAProxy is not installed: apt-get install haproxy")
    config = root / "deploy/haproxy/haproxy.cfg"
    done = subprocess.run(["haproxy", "-c", "-f", config], capture_output=True, text=True, timeout=60)
    assert (done.returncode, "warning" in done.stderr.lower()) == (0, False), done.stderr
