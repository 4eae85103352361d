"""The gateway, a bare FastAPI endpoint, LitServe and BentoML around the same file, asked in turn."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import cv2
import httpx2
from common import Uint8Array, quantiles, rounded, run_and_forget, take_turns
from mcjepa_server.engines.onnxruntime import OnnxRuntimeEngine
from mcjepa_server.flowcodec import encode_flo
from mcjepa_server.geometry import Padding, plan_geometry
from mcjepa_server.images import PixelBudget, decode_image
from mcjepa_server.memory import GATEWAY_BYTES, keep_freed_memory
from mcjepa_server.scaling import pack_clip, unpack_flow

TIMEOUT = 300.0  # s, of one request or of a start
REST = 7.0  # s without a request
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


def measure(
    repository: Path, pair: Uint8Array, threads: int, clients: list[int], each: int
) -> dict[str, Any]:
    """Latencies, throughput, memory and processor time of each server, for each number of clients."""
    files = [(f"frame{number}", encode_png(frame)) for number, frame in enumerate(pair, start=1)]
    request = Request("/v1/flow", files, {})
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(start(command, repository, threads))
            for name, command in commands(repository, threads).items()
        }
        report: dict[str, Any] = {
            name: {"ready_s": rounded(server.ready_s), "ready_cpu_s": rounded(server.ready_cpu_s)}
            for name, server in servers.items()
        }
        for server in servers.values():
            load(server, request, 1, 2)  # warms up
        for count in clients:
            for name, server in servers.items():
                report[name][f"{count} clients"] = load(server, request, count, max(each, 2 * count))
        for name, server in servers.items():
            report[name]["memory_mb"] = peak_memory(server, request, *CROWD)
        time.sleep(REST)
        for name, server in servers.items():
            report[name]["memory_at_rest_mb"] = megabytes(server)
    return report


def direct(repository: Path, pair: Uint8Array, threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """Times in this process of the engine alone, and with what a request needs: decoding, encoding.

    With the heap of the gateway, without which it would be slower.
    """
    keep_freed_memory(GATEWAY_BYTES)
    engine = OnnxRuntimeEngine.load(repository, threads, workers=1)
    files = [encode_png(frame) for frame in pair]
    height, width = pair.shape[1:3]
    geometry = plan_geometry(width, height, Padding(64), max(width, height), width * height)

    async def whole() -> bytes:
        budget = PixelBudget(2 * width * height, 2 * width * height)
        clip = pack_clip([decode_image(data, "frame", budget) for data in files], geometry)
        output = await engine.infer_flow(clip, backward=False, embed=False)
        return encode_flo(unpack_flow(output.flow[0], geometry)[0])

    clip = pack_clip(list(pair), geometry)
    alone = take_turns(
        {
            "engine": lambda: run_and_forget(engine.infer_flow(clip, backward=False, embed=False)),
            "decode + engine + encode": lambda: run_and_forget(whole()),
        },
        rounds,
    )
    asyncio.run(engine.close())
    return alone


def bars(servers: Mapping[str, Any], alone: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """What the gateway adds, and where it stands beside the peers; of wall time, or processor time (cpu)."""
    whole, engine, gateway = alone["decode + engine + encode"], alone["engine"], servers["gateway"]
    counts = [key for key in gateway if key.endswith("clients")]
    one, many = gateway[counts[0]], gateway["8 clients" if "8 clients" in counts else counts[-1]]
    peers = [server for name, server in servers.items() if name != "gateway"]
    found = {
        "p50 of one client / decode + engine + encode": one["p50"] / whole["p50"],
        "the same, cpu": one["cpu_ms_per_request"] / whole["cpu"],
        "throughput of 8 clients / the engine's own": many["per_s"] * engine["p50"] / 1000,
        "memory / the leanest peer's": gateway["memory_mb"] / min(peer["memory_mb"] for peer in peers),
        "the same, at rest": gateway["memory_at_rest_mb"] / min(peer["memory_at_rest_mb"] for peer in peers),
    }
    for key in counts:
        best = max(peer[key]["per_s"] for peer in peers)
        found[f"throughput of {key} / the best peer's"] = gateway[key]["per_s"] / best
    return {name: rounded(value) for name, value in found.items()}


def encode_png(frame: Uint8Array) -> bytes:
    _, data = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return data.tobytes()


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
        most = 0
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
