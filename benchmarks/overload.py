"""More requests than the server can compute: what do the accepted ones wait, and what becomes of the rest?

First the capacity and the latency of an unloaded server are measured with one caller. Then requests arrive
at --times that rate, whether or not earlier ones are answered, for --seconds, while other connections do not
read their replies, send a byte a second or nothing. Passed if the server survives,
every reply is 200 or 429 with Retry-After, the 99th percentile of the accepted is within twice the unloaded
one plus the queue bound (max_queue_wait_s), /healthz answers within --health-ms, and memory does not grow.

The caller shares the machine with the server, which makes both slower; the figures are of both.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from attacks import Siege, Target
from serving import ServerProcess, frames, machine, percentile, report, usage

GROWTH_MB, GROWTH_SHARE = 8.0, 0.05


@dataclass
class Seen:
    statuses: Counter[str] = field(default_factory=Counter)
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    without_retry_after: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=120, help="of overload, default %(default)g")
    parser.add_argument("--times", type=float, default=5, help="the capacity, default %(default)g")
    parser.add_argument("--size", default="256x192", metavar="WxH", help="of frames, default %(default)s")
    parser.add_argument("--queue-wait", type=float, default=2, help="max_queue_wait_s, default %(default)g")
    parser.add_argument("--health-ms", type=float, default=100, help="default %(default)g")
    parser.add_argument("--port", type=int, default=0, help="default a free one")
    parser.add_argument("--output", type=Path, metavar="FILE", help="keep the figures as JSON")
    arguments = parser.parse_args()
    settings = {
        "engine": "onnxruntime",
        "intra_op_threads": 1,
        "max_queue_wait_s": arguments.queue_wait,
        "write_timeout_s": 5,
        "body_timeout_s": 10,
    }
    with ServerProcess(port=arguments.port, **settings) as server:
        figures = asyncio.run(measure(server, arguments))
    report(figures, arguments.output)
    sys.exit(0 if figures["passed"] else 1)


async def measure(server: ServerProcess, arguments: argparse.Namespace) -> dict[str, Any]:
    width, height = map(int, arguments.size.split("x"))
    pair = frames(width, height)
    files = {"frame1": ("1", pair[0]), "frame2": ("2", pair[1])}
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx2.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:
        alone = await unloaded(client, files)
        rate = arguments.times / statistics.mean(alone)
        idle = usage(server.pid)
        with Siege(Target.of(server.url), unread=2, slow=5, idle=100):
            seen = await overload(server, client, files, rate, arguments.seconds)
    return summary(server, arguments, alone, rate, idle, seen)


async def unloaded(client: httpx2.AsyncClient, files: dict[str, Any], count: int = 60) -> list[float]:
    """Seconds of requests one after the other, the first few left out."""
    seconds = []
    for index in range(count):
        start = time.perf_counter()
        (await client.post("/v1/flow", files=files)).raise_for_status()
        if index >= 10:
            seconds.append(time.perf_counter() - start)
    return seconds


async def overload(
    server: ServerProcess, client: httpx2.AsyncClient, files: dict[str, Any], rate: float, seconds: float
) -> Seen:
    seen = Seen()
    stop = asyncio.Event()
    watching = asyncio.create_task(watch(server, seen, stop))
    tasks = set()
    start = time.perf_counter()
    sent = 0
    while (age := time.perf_counter() - start) < seconds:
        if sent >= age * rate:
            await asyncio.sleep(max(0.001, sent / rate - age))
            continue
        sent += 1
        task = asyncio.create_task(ask(client, files, seen))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    stop.set()
    await watching
    return seen


async def ask(client: httpx2.AsyncClient, files: dict[str, Any], seen: Seen) -> None:
    start = time.perf_counter()
    try:
        reply = await client.post("/v1/flow", files=files)
    except httpx2.HTTPError as error:
        seen.statuses[type(error).__name__] += 1
        return
    took = time.perf_counter() - start
    seen.statuses[str(reply.status_code)] += 1
    (seen.accepted if reply.status_code == 200 else seen.refused).append(took)
    if reply.status_code == 429 and not reply.headers.get("retry-after", "").isdigit():
        seen.without_retry_after += 1


async def watch(server: ServerProcess, seen: Seen, stop: asyncio.Event) -> None:
    """Health and memory, on a connection of its own each time, as probes have."""
    closing = {"Connection": "close"}
    async with httpx2.AsyncClient(base_url=server.url, timeout=30, headers=closing) as client:
        while not stop.is_set():
            start = time.perf_counter()
            try:
                good = (await client.get("/healthz")).status_code == 200
            except httpx2.HTTPError:
                good = False
            seen.health.append(time.perf_counter() - start if good else float("inf"))
            seen.memory.append(usage(server.pid)["rss_mb"])
            await asyncio.sleep(0.5)


def summary(
    server: ServerProcess,
    arguments: argparse.Namespace,
    alone: list[float],
    rate: float,
    idle: dict[str, float],
    seen: Seen,
) -> dict[str, Any]:
    """Memory is compared between the second and the last tenth: the first fills the queue."""
    tenth = max(1, len(seen.memory) // 10)
    early, late = (statistics.mean(part) for part in (seen.memory[tenth : 2 * tenth], seen.memory[-tenth:]))
    bound = 2 * percentile(alone, 0.99) + arguments.queue_wait
    p99, alive = percentile(seen.accepted, 0.99), server.process.poll() is None
    checks = {
        "alive": alive,
        "only 200 and 429": set(seen.statuses) <= {"200", "429"},
        "429 with Retry-After": seen.without_retry_after == 0,
        "p99 of accepted within the bound": p99 <= bound,
        "health in time": max(seen.health) * 1000 <= arguments.health_ms,
        "memory flat": late - early <= max(GROWTH_MB, GROWTH_SHARE * early),
    }
    return {
        **machine(),
        "size": arguments.size,
        "capacity_per_s": round(rate / arguments.times, 2),
        "sent_per_s": round(sum(seen.statuses.values()) / arguments.seconds, 2),
        "served_per_s": round(len(seen.accepted) / arguments.seconds, 2),
        "statuses": dict(seen.statuses),
        "unloaded_p50_ms": round(statistics.median(alone) * 1000, 1),
        "unloaded_p99_ms": round(percentile(alone, 0.99) * 1000, 1),
        "accepted_p50_ms": round(percentile(seen.accepted, 0.5) * 1000, 1),
        "accepted_p99_ms": round(p99 * 1000, 1),
        "bound_ms": round(bound * 1000, 1),
        "refused_p50_ms": round(percentile(seen.refused, 0.5) * 1000, 1),
        "refused_p99_ms": round(percentile(seen.refused, 0.99) * 1000, 1),
        "health_p50_ms": round(percentile(seen.health, 0.5) * 1000, 1),
        "health_p99_ms": round(percentile(seen.health, 0.99) * 1000, 1),
        "health_worst_ms": round(max(seen.health) * 1000, 1),
        "rss_mb_idle_early_late": [idle["rss_mb"], round(early, 1), round(late, 1)],
        "checks": checks,
        "passed": all(checks.values()),
    }


if __name__ == "__main__":
    main()
