"""How fast it is: engines beside OpenCV's classical flow, and the gateway beside other servers.

Everything that is compared takes turns in one run, on the same real frames of 1024x448, and ratios are
medians of those of each turn: what else the machine does makes all slow by turns. Ratios of engines are of
processor time (cpu) where they do not say wall.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import embeddings
import engines
import gateways
from common import HEIGHT, WIDTH, machine, read_frames, rounded, write_json
from mcjepa_server import Settings
from mcjepa_server.engines.factory import find_model_repository

#: What is asked of the client at a start, and what NumPy and the HTTP client take of it.
IMPORTS = ("import mcjepa_client", "from mcjepa_client import Client", "import numpy, httpx2")

IN_PROCESS = ("p50", "p90", "p99", "cpu")  # columns
OVER_HTTP = ("p50", "p90", "p99", "cpu_ms_per_request", "per_s")


def main() -> None:
    arguments = parse_arguments()
    repository = find_model_repository(Settings())
    frames = read_frames(engines.CLIP)
    rounds, clients, each = (5, [1, 8], 8) if arguments.quick else (20, [1, 2, 8, 32], 32)
    report: dict[str, Any] = {"machine": machine(arguments.threads), "size": [WIDTH, HEIGHT]}
    report["engines"] = engines.measure(repository, frames, arguments.threads, rounds)
    show_engines(report)
    report["gateways"] = gateways.measure(repository, frames[:2], arguments.threads, clients, each)
    show_gateways(report)
    report["embeddings"] = embeddings.measure(repository, frames[0], arguments.threads, 4 * each)
    show_embeddings(report)
    report["client_import_cpu_s"] = {line: seconds_of(line) for line in IMPORTS}
    print("\nThe client, seconds of a processor")
    for line, seconds in report["client_import_cpu_s"].items():
        print(f"  {line}: {seconds}")
    if arguments.output:
        write_json(arguments.output, report)


def seconds_of(line: str, runs: int = 5) -> float:
    """Of the thread that runs a line of Python in a new process, the median.

    NumPy's OpenBLAS starts a thread a core, which spin for as long again; nobody waits for them.
    """
    script = f"import time; began = time.thread_time(); {line}; print(time.thread_time() - began)"
    command = [sys.executable, "-c", script]
    times = [
        float(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
        for _ in range(runs)
    ]
    return rounded(statistics.median(times))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few runs: five minutes in place of fifteen")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), metavar="N", help="of all; default one per core"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="keep the figures as JSON")
    arguments = parser.parse_args()
    if arguments.threads < 1:
        parser.error(f"--threads is {arguments.threads}, expected 1 or more")
    return arguments


def show_engines(report: dict[str, Any]) -> None:
    host = report["machine"]
    print(f"{host['processor']}, {host['cores']} cores, {host['threads']} threads, load {host['load']}")
    print(f"\nFlow and embeddings, frames of {WIDTH}x{HEIGHT}; ms")
    print(f"  {'':<30}{'p50':>9}{'p90':>9}{'p99':>9}{'cpu':>9}{'runs':>6}")
    for name, row in report["engines"]["times_ms"].items():
        print(f"  {name:<30}{cells_of(row, *IN_PROCESS)}{row['runs']:>6}")
    for name, value in report["engines"]["ratios"].items():
        print(f"  {name}: {value}")
    roof = report["engines"]["roofline"]
    print(f"  {roof['gmac']} GMAC; a matrix product reaches {roof['gemm_gflops_per_core']} GFLOP/s a core,")
    print(f"  onnxruntime works at {100 * roof['share']:.0f} % of that", flush=True)


def show_embeddings(report: dict[str, Any]) -> None:
    print(f"\nEmbeddings over HTTP, JPEG files of {embeddings.SIDE}x{embeddings.SIDE} in; ms")
    print(f"  {'':<40}{'p50':>9}{'p90':>9}{'p99':>9}{'cpu':>9}{'per s':>9}")
    for load, found in report["embeddings"].items():
        for name in ("gateway", embeddings.BARE):
            print(f"  {f'{name}, {load}':<40}{cells_of(found[name], *OVER_HTTP)}")
        print(f"  {load}, gateway / {embeddings.BARE}, requests a second: {found['ratio']}")


def cells_of(row: Mapping[str, Any], *names: str) -> str:
    return "".join(f"{row[name]:>9}" for name in names)


def show_gateways(report: dict[str, Any]) -> None:
    found = report["gateways"]
    print("\nPairs over HTTP, PNG files in, flow out; ms")
    print(f"  {'':<40}{'p50':>9}{'p90':>9}{'p99':>9}{'cpu':>9}{'per s':>9}")
    for name, row in found["in one process"].items():
        print(f"  {'in one process, ' + name:<40}{cells_of(row, *IN_PROCESS)}")
    for name, server in found["servers"].items():
        for count, row in server["clients"].items():
            print(f"  {f'{name}, {count} clients':<40}{cells_of(row, *OVER_HTTP)}")
    for name, server in found["servers"].items():
        print(f"  {name}: ready in {server['ready_s']} s (cpu {server['ready_cpu_s']} s), ", end="")
        print(f"{server['memory_mb']} MB, at rest {server['memory_at_rest_mb']} MB")
    for name, value in found["bars"].items():
        print(f"  {name}: {value}")


if __name__ == "__main__":
    main()
