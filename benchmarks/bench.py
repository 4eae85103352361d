"""How fast it is: engines beside OpenCV's classical flow, and the gateway beside other servers.

Everything that is compared takes turns in one run, on the same real frames of 1024x448. Wall time depends on
what else the machine does; processor time (cpu) hardly does, and ratios are of it where they do not say wall.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import embeddings
import engines
import gateways
from common import HEIGHT, WIDTH, machine, read_frames, rounded, write_json
from mcjepa_server import Settings
from mcjepa_server.engines.select import find_model_repository

#: What is asked of the client at a start, and what NumPy and the HTTP client take of it.
IMPORTS = ("import mcjepa_client", "from mcjepa_client import Client", "import numpy, httpx2")


def main() -> None:
    arguments = parse_arguments()
    repository = find_model_repository(Settings())
    frames = read_frames(engines.CLIP)
    rounds, clients, each = (5, [1, 8], 8) if arguments.quick else (30, [1, 2, 8, 32], 64)
    report: dict[str, Any] = {"machine": machine(arguments.threads), "size": [WIDTH, HEIGHT]}
    report["engines"] = engines.measure(repository, frames, arguments.threads, rounds)
    show_engines(report)
    report["direct"] = gateways.direct(repository, frames[:2], arguments.threads, rounds)
    report["gateways"] = gateways.measure(repository, frames[:2], arguments.threads, clients, each)
    report["bars"] = gateways.bars(report["gateways"], report["direct"])
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
    parser.add_argument("--quick", action="store_true", help="few runs: a minute in place of ten")
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
        cells = "".join(f"{row[key]:>9}" for key in ("p50", "p90", "p99", "cpu"))
        print(f"  {name:<30}{cells}{row['runs']:>6}")
    for name, value in report["engines"]["ratios"].items():
        print(f"  {name}: {value}")
    roof = report["engines"]["roofline"]
    print(f"  {roof['gmac']} GMAC; a matrix product reaches {roof['gemm_gflops_per_core']} GFLOP/s a core,")
    print(f"  onnxruntime works at {100 * roof['share']:.0f} % of that", flush=True)


def show_embeddings(report: dict[str, Any]) -> None:
    print(f"\nEmbeddings over HTTP, JPEG files of {embeddings.SIDE}x{embeddings.SIDE} in; ms")
    print(f"  {'':<40}{'p50':>9}{'p90':>9}{'p99':>9}{'cpu':>9}{'requests per s':>16}")
    for name, rows in report["embeddings"].items():
        for key, row in rows.items():
            cells = "".join(f"{row[cell]:>9}" for cell in ("p50", "p90", "p99", "cpu_ms_per_request"))
            print(f"  {name + ', ' + key:<40}{cells}{row['per_s']:>16}")


def show_gateways(report: dict[str, Any]) -> None:
    print("\nPairs over HTTP, PNG files in, flow out; ms")
    print(f"  {'':<30}{'p50':>9}{'p90':>9}{'p99':>9}{'cpu':>9}{'per s':>9}")
    for name, row in report["direct"].items():
        print(f"  {'in one process, ' + name:<30}  {row['p50']}, cpu {row['cpu']}")
    for name, rows in report["gateways"].items():
        for key, row in rows.items():
            if isinstance(row, dict):
                cells = "".join(
                    f"{row[cell]:>9}" for cell in ("p50", "p90", "p99", "cpu_ms_per_request", "per_s")
                )
                print(f"  {name + ', ' + key:<30}{cells}")
    for name, rows in report["gateways"].items():
        print(f"  {name}: ready in {rows['ready_s']} s (cpu {rows['ready_cpu_s']} s), ", end="")
        print(f"{rows['memory_mb']} MB, at rest {rows['memory_at_rest_mb']} MB")
    for name, value in report["bars"].items():
        print(f"  {name}: {value}")


if __name__ == "__main__":
    main()
