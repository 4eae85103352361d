"""The gateway, a bare FastAPI endpoint, LitServe and BentoML around the same file, asked in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import httpx2
from common import Uint8Array, encode_png, quantiles, rounded
from in_process import InProcess
from servers import Running, commands, cpu_seconds, megabytes, start

TIMEOUT = 300.0  # s, of one request
REST = 7.0  # s without a request
TURNS = 3
CROWD = (8, 32)  # clients and requests while memory is watched
PLAIN = {"Accept-Encoding": "identity"}  # LitServe would compress


@dataclass(frozen=True)
class Request:
    """What a client sends, over and over: a form."""

    path: str
    files: list[tuple[str, bytes]]
    fields: Mapping[str, str]


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
