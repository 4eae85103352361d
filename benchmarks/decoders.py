"""What it costs a request to decode its frames in other processes, against threads of this one, in turn."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from functools import partial

from mcjepa_server import Settings
from mcjepa_server.decoding.clip import decode_clip
from mcjepa_server.decoding.pool import Decoders
from mcjepa_server.imaging.geometry import Padding, plan_geometry
from mcjepa_server.imaging.limits import PixelBudget
from prometheus_client import Counter
from serving import frames, machine


async def measure(size: tuple[int, int], repeats: int) -> dict[str, float]:
    """Milliseconds of a pair of JPEG files, median and 95th percentile."""
    files = list(zip(("frame1", "frame2"), frames(size[0], size[1]), strict=True))
    plan = partial(plan_geometry, padding=Padding(64), max_side=1024, max_pixels=2**20)
    pools = {
        name: Decoders(Settings(decode_processes=count), Counter("f", "f", registry=None))
        for name, count in WAYS.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in pools}
    for pool in pools.values():
        await pool.start()
    for _ in range(repeats):
        for name, pool in pools.items():
            start = time.perf_counter()
            await decode_clip(files, PixelBudget(10**9, 10**9), plan, pool)
            seconds[name].append(time.perf_counter() - start)
    for pool in pools.values():
        await pool.stop()
    figures = {}
    for name, values in seconds.items():
        figures[f"{name}_median_ms"] = round(statistics.median(values) * 1000, 2)
        figures[f"{name}_fastest_ms"] = round(min(values) * 1000, 2)
    return figures


WAYS = {"threads": 0, "processes": 2}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=100, help="default %(default)s")
    arguments = parser.parse_args()
    report = {
        f"{w}x{h}": asyncio.run(measure((w, h), arguments.repeats)) for w, h in ((256, 192), (1024, 448))
    }
    print(json.dumps(machine() | report, indent=1))
