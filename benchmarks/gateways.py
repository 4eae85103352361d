"""The gateway, a bare FastAPI endpoint, LitServe and BentoML around the same file, asked in turn."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import httpx2
from common import Uint8Array, encode_png, quantiles, rounded
from in_process import InProcess

TIMEOUT = 300.0  # s, of one request or of a start
REST = 7.0  # s without a request
TURNS = 3
CROWD = (8, 32)  # clients and requests while memory is watched
HERE = Path(__file__).parent
PLAIN = {"Accept-Encoding": "identity"}  # LitServe would compress
PEERS = HERE.parent / ".venv-bench/bin/python"  # of the environment that `make bench` makes for them


@dataclass(frozen=True)
class Request:
    """What a client sends, over and over: a form."""

    path: str
    files: list[tuple[str, bytes]]
    fields: Mapping[str, str]


@dataclass
class Running:
    """A server: where it is, its process and what it took to start."""

    url: str
    process: subprocess.Popen[bytes]
    ready_s: float
    ready_cpu_s: float


@dataclass(frozen=True)
class Turn:
    """What was measured in one go, and is compared: machines are fast and slow by turns."""

    alone: dict[str, dict[str, float]]  # in this process
    servers: dict[str, dict[int, dict[str, Any]]]  # of each, by the number of clients: see `load`


def measure(
    repository: Path, pair: Uint8Array, threads: int, clients: list[int], each: int
) -> dict[str, Any]:
    """Latencies, throughput, memory and processor time of each server and of the engine in this process."""
    files = [(f"frame{number}", encode_png(frame)) for number, frame in enumerate(pair, start=1)]
    request = Request("/v1/flow", files, {})
    with ExitStack() as stack:
        alone = stack.enter_context(closing(InProcess(repository, pair, threads)))
        servers = {
            name: stack.enter_context(start(command, repository, threads))
            for name, command in commands(repository, threads).items()
        }
        for server in servers.values():
            load(server, request, 1, 2)  # warms up
        turns = [take_turn(servers, alone, request, clients, each) for _ in range(TURNS)]
        memory = {name: peak_memory(server, request, *CROWD) for name, server in servers.items()}
        time.sleep(REST)
        rest = {name: megabytes(server) for name, server in servers.items()}
    rows = {
        name: {count: middle([turn.servers[name][count] for turn in turns]) for count in clients}
        for name in servers
    }
    return {
        "in one process": {name: middle([turn.alone[name] for turn in turns]) for name in turns[0].alone},
        "servers": {
            name: {
                "ready_s": rounded(server.ready_s),
                "ready_cpu_s": rounded(server.ready_cpu_s),
                "memory_mb": memory[name],
                "memory_at_rest_mb": rest[name],
                "clients": rows[name],
            }
            for name, server in servers.items()
        },
        "bars": bars(turns) | compare_memory("memory", memory) | compare_memory("memory at rest", rest),
    }


def take_turn(
    servers: Mapping[str, Running], alone: InProcess, request: Request, clients: list[int], each: int
) -> Turn:
    found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in servers}
    for count in clients:
        for name, server in servers.items():
            found[name][count] = load(server, request, count, max(each, 2 * count))
    return Turn(alone.measure(each), found)


def middle(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """That with the median p50."""
    return sorted(rows, key=lambda row: float(row["p50"]))[len(rows) // 2]


def bars(turns: Sequence[Turn]) -> dict[str, float]:
    """What the gateway adds, and where it stands beside the best peer: medians of the ratios of each turn."""

    def typical(ratio: Callable[[Turn, dict[int, dict[str, Any]]], float]) -> float:
        return statistics.median(ratio(turn, turn.servers["gateway"]) for turn in turns)

    counts = list(turns[0].servers["gateway"])
    one, many = counts[0], 8 if 8 in counts else counts[-1]
    whole = "decode + engine + encode"
    found = {
        f"p50 of one client / {whole}": typical(
            lambda turn, gateway: gateway[one]["p50"] / turn.alone[whole]["p50"]
        ),
        "the same, cpu": typical(
            lambda turn, gateway: gateway[one]["cpu_ms_per_request"] / turn.alone[whole]["cpu"]
        ),
        f"throughput of {many} clients / the engine's own": typical(
            lambda turn, gateway: gateway[many]["per_s"] * turn.alone["engine"]["p50"] / 1000
        ),
    }
    for count in counts:
        beside = (
            typical(partial(_throughput, count, peer)) for peer in turns[0].servers if peer != "gateway"
        )
        found[f"throughput of {count} clients / the best peer's"] = min(beside)
    return {name: rounded(value) for name, value in found.items()}


def _throughput(count: int, peer: str, turn: Turn, gateway: dict[int, dict[str, Any]]) -> float:
    return float(gateway[count]["per_s"] / turn.servers[peer][count]["per_s"])


def compare_memory(what: str, megabytes: Mapping[str, int]) -> dict[str, float]:
    least = min(value for name, value in megabytes.items() if name != "gateway")
    return {f"{what} / the leanest peer's": rounded(megabytes["gateway"] / least)}


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


def load(server: Running, request: Request, clients: int, requests: int) -> dict[str, Any]:
    """So many requests by so many clients, each with a connection of its own."""
    with ExitStack() as stack:
        https = [stack.enter_context(new_client()) for _ in range(clients)]
        pool = stack.enter_context(ThreadPoolExecutor(clients))
        before = cpu_seconds(server.process.pid)
        began = time.perf_counter()
        share = [requests // clients] * clients
        parts = list(pool.map(lambda http, count: send(http, server.url, request, count), https, share))
        elapsed = time.perf_counter() - began
        used = cpu_seconds(server.process.pid) - before
    times = [value for part in parts for value in part]
    return quantiles(times) | {
        "per_s": rounded(len(times) / elapsed),
        "cpu_ms_per_request": rounded(1000 * used / len(times)),
    }


def peak_memory(server: Running, request: Request, clients: int, requests: int) -> int:
    """MiB at most while so many clients send; it is looked at ten times a second, which takes time itself."""
    done = Event()

    def watch() -> int:
        most = megabytes(server)
        while not done.wait(0.1):
            most = max(most, megabytes(server))
        return most

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            load(server, request, clients, requests)
        finally:
            done.set()
        return watching.result()


def new_client() -> httpx2.Client:
    """Without certificates, which take 50 ms to load."""
    return httpx2.Client(trust_env=False, verify=False, timeout=TIMEOUT, headers=PLAIN)


def send(http: httpx2.Client, url: str, request: Request, count: int) -> list[float]:
    """The request so many times, one after the other: ms of each."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        reply = http.post(url + request.path, files=request.files, data=request.fields)
        reply.raise_for_status()
        times.append(1000 * (time.perf_counter() - began))
    return times


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
