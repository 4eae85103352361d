"""The servers that are compared: what starts each, and what it takes while it runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2

TIMEOUT = 300.0  # s, of a start or an end
HERE = Path(__file__).parent
PEERS = HERE.parent / ".venv-bench/bin/python"  # of the environment that `make bench` makes for them


@dataclass
class Running:
    """A server: where it is, its process and what it took to start."""

    url: str
    process: subprocess.Popen[bytes]
    ready_s: float
    ready_cpu_s: float


def commands(repository: Path, threads: int) -> dict[str, list[str]]:
    """What starts each server, less its port; LitServe and BentoML where their environment was made."""
    given = [str(repository), str(threads)]
    found = {
        "gateway": [sys.executable, "-m", "mcjepa_server", "--model-repository", str(repository)],
        "bare FastAPI": [sys.executable, str(HERE / "bare_fastapi.py"), *given],
    }
    if PEERS.is_file():
        found["LitServe"] = [str(PEERS), str(HERE / "litserve_server.py"), *given]
        service = ["bentoml_service:Flow", "--working-dir", str(HERE)]
        found["BentoML"] = [str(PEERS), "-m", "bentoml", "serve", *service]
    return found


@contextmanager
def start(command: list[str], repository: Path, threads: int) -> Iterator[Running]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "MCJEPA_INTRA_OP_THREADS": str(threads),
        "MCJEPA_MAX_QUEUE_WAIT_S": str(TIMEOUT),
        "MCJEPA_REQUEST_TIMEOUT_S": str(TIMEOUT),
        "MCJEPA_MAX_CONCURRENCY_PER_KEY": "256",
        "MODEL_REPOSITORY": str(repository),  # what BentoML's service reads
        "THREADS": str(threads),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process, began + TIMEOUT)
        yield Running(url, process, time.perf_counter() - began, cpu_seconds(process.pid))
    finally:
        members = family(process.pid)
        process.terminate()
        process.wait(TIMEOUT)
        for member in members:  # those of LitServe outlive it
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)


def wait_until_ready(url: str, process: subprocess.Popen[bytes], deadline: float) -> None:
    while time.perf_counter() < deadline and process.poll() is None:
        try:
            if httpx2.get(f"{url}/readyz", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(0.02)
    raise RuntimeError(f"{url} did not become ready: {process.args!r}")


def family(pid: int) -> list[int]:
    """A process and its children, on Linux."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(child) for child in children.read_text().split()] if children.is_file() else []
    return [pid, *(member for child in found for member in family(child))]


def cpu_seconds(pid: int) -> float:
    ticks = 0
    for member in family(pid):
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def megabytes(server: Running) -> int:
    """Memory (MiB) of the process and its children, shared pages divided among those who share them."""
    total = 0
    for member in family(server.process.pid):
        lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return round(total / 1024)
