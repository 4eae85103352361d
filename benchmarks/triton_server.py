"""Pairs a second through the gateway: embedded engine, one Triton, two Tritons.

Each way in turn serves the same model repository over HTTP to the same number of concurrent callers, with
--threads threads for one inference. The Tritons are started from .venv-triton (make triton makes it). On one
machine two Tritons share the cores: they show what balancing costs, not what a second machine gives.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import httpx2
import numpy as np
from mcjepa_client import Client

ROOT = Path(__file__).resolve().parents[1]
GATEWAY_PORT, TRITON_PORT = 18080, 18001
READY_S = 180.0


def main() -> None:
    arguments = parse_arguments()
    report: dict[str, Any] = {"pairs": arguments.pairs, "clients": arguments.clients, "size": arguments.size}
    for name, tritons in (("embedded", 0), ("triton", 1), ("two tritons", 2)):
        report[name] = measure(arguments, tritons)
        print(f"{name:12} {report[name]}")
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=64, help="default %(default)s")
    parser.add_argument("--clients", type=int, default=16, help="concurrent callers, default %(default)s")
    parser.add_argument("--size", default="1024x448", metavar="WxH", help="default %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="of one inference, default %(default)s")
    parser.add_argument("--model-repository", type=Path, default=ROOT / "model_repository", metavar="DIR")
    parser.add_argument("--output", type=Path, metavar="FILE", help="keep the figures as JSON")
    return parser.parse_args()


def measure(arguments: argparse.Namespace, tritons: int) -> dict[str, float]:
    """Throughput, median and 95th percentile of the time of a request, memory, and Triton's batches."""
    with ExitStack() as stack:
        servers = [stack.enter_context(running_triton(arguments, index)) for index in range(tritons)]
        gateway = stack.enter_context(running_gateway(arguments, tritons))
        files = frame_files(*map(int, arguments.size.split("x")))
        request(files)  # the first of a shape is slower
        before = triton_counts(tritons)
        start = time.perf_counter()
        with ThreadPoolExecutor(arguments.clients) as pool:
            seconds = sorted(pool.map(request, [files] * arguments.pairs))
        wall = time.perf_counter() - start
        inferences, executions = (b - a for a, b in zip(before, triton_counts(tritons), strict=True))
        return {
            "pairs_per_s": round(arguments.pairs / wall, 2),
            "median_ms": round(statistics.median(seconds) * 1000),
            "p95_ms": round(seconds[int(0.95 * len(seconds))] * 1000),
            "pairs_per_execution": round(inferences / executions, 2) if executions else 1.0,
            "gateway_mb": memory_mb(gateway),
            "triton_mb": sum(memory_mb(server) for server in servers),
        }


def request(files: dict[str, Any]) -> float:
    start = time.perf_counter()
    url = f"http://127.0.0.1:{GATEWAY_PORT}/v1/flow?format=flo"
    httpx2.post(url, files=files, timeout=300).raise_for_status()
    return time.perf_counter() - start


def frame_files(width: int, height: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
    picture = cv2.resize(noise, (width + 16, height + 16), interpolation=cv2.INTER_CUBIC)
    cuts = (picture[:height, :width], picture[5 : height + 5, 7 : width + 7])
    return {f"frame{i + 1}": cv2.imencode(".jpg", cut)[1].tobytes() for i, cut in enumerate(cuts)}


@contextmanager
def running_gateway(arguments: argparse.Namespace, tritons: int) -> Iterator[int]:
    command = [sys.executable, "-m", "mcjepa_server", f"--port={GATEWAY_PORT}"]
    command += [f"--model-repository={arguments.model_repository}", "--engine"]
    command += ["triton" if tritons else "onnxruntime"]
    command += [f"--triton-url=127.0.0.1:{TRITON_PORT + 10 * index}" for index in range(tritons)]
    threads = {"MCJEPA_INTRA_OP_THREADS": str(arguments.threads), "MCJEPA_MAX_QUEUE": "256"}
    with running(command, threads) as process, Client(f"http://127.0.0.1:{GATEWAY_PORT}") as client:
        client.wait_until_ready(READY_S)
        yield process


@contextmanager
def running_triton(arguments: argparse.Namespace, index: int) -> Iterator[int]:
    port = TRITON_PORT + 10 * index
    with tempfile.TemporaryDirectory() as work:
        command = [str(ROOT / ".venv-triton/bin/python"), str(ROOT / "deploy/triton/serve.py")]
        command += [f"--work={work}", f"--model-repository={arguments.model_repository}"]
        command += [f"--threads={arguments.threads}", f"--grpc-port={port}"]
        command += [f"--http-port={port + 1}", f"--metrics-port={port + 2}"]
        with running(command, {}) as process:
            wait_for(f"http://127.0.0.1:{port + 1}/v2/health/ready")
            yield process


@contextmanager
def running(command: Sequence[str], environment: dict[str, str]) -> Iterator[int]:
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=60)


def wait_for(url: str) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    sys.exit(f"{url} did not answer within {READY_S:g} s")


def triton_counts(tritons: int) -> tuple[int, int]:
    """Inferences and executions of mcjepa_flow, all Tritons together."""
    inferences = executions = 0
    for index in range(tritons):
        url = f"http://127.0.0.1:{TRITON_PORT + 10 * index + 1}/v2/models/mcjepa_flow/stats"
        with urllib.request.urlopen(url, timeout=10) as reply:
            stats = json.load(reply)["model_stats"][0]
        inferences += stats["inference_count"]
        executions += stats["execution_count"]
    return inferences, executions


def memory_mb(pid: int) -> int:
    """Resident memory of a process and its children; 0 where there is no /proc."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:
            continue
        if pid in (int(fields["Pid"]), int(fields["PPid"])) and "VmRSS" in fields:
            total += int(fields["VmRSS"].split()[0])
    return total // 1024


if __name__ == "__main__":
    main()
