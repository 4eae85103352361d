"""From what a frame pair costs to machines, bandwidth and money at 10, 1000 and 100,000 pairs a second.

Measured on this machine, as processor time: what the gateway takes for a pair (with an engine that costs next
to nothing, whose own time is subtracted), and what the embedded engine takes. Bytes are those that were sent.
Not measured, and only counted where they are given: GPU time and prices. A queueing simulation then says what
the waiting is at the planned load, beside what Jackson's formula says.

    python benchmarks/capacity.py --gpu-ms 5 --gpu-source "assumed: ..." --output out/capacity.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from capacity_simulation import Cell, expected_latency, simulate
from mcjepa_server.engines.base import Engine
from mcjepa_server.engines.fake import FakeEngine
from mcjepa_server.engines.onnxruntime import OnnxRuntimeEngine
from servers import cpu_seconds
from serving import ROOT, ServerProcess, frames, machine, report

RATES = (10.0, 1e3, 1e5)  # frame pairs a second
TIMEOUT_S = 120.0
CELL = 1e3  # pairs a second; what is larger is several of it


@dataclass(frozen=True)
class Cost:
    """Of one frame pair. Processor time in ms of one core, sizes in bytes."""

    gateway_ms: float  # decode, check, encode, HTTP
    engine_ms: float  # the embedded engine
    bytes_in: float  # from the caller
    bytes_out: float
    tensors_in: float  # from the gateway to Triton
    tensors_out: float


@dataclass(frozen=True)
class Site:
    """Machines, how far they may be loaded, and what is assumed rather than measured (None: left out)."""

    load: float = 0.6  # share of cores, GPUs and network
    cores: int = 16  # of a machine of gateways
    gateway_cores: int = 2  # of one gateway: a process with one event loop, and its decoders
    network_gbit: float = 12.5  # of each machine, each way
    gpus: int = 1  # of a machine with GPUs
    grpc_ms: float = 10.0  # processor time of a gateway for a call of Triton
    gpu_ms: float | None = None  # of a frame pair
    core_price: float | None = None  # an hour
    gpu_machine_price: float | None = None  # an hour
    egress_price: float | None = None  # 1e9 bytes to callers


#: Requests: path, number of frames, suffix of the frames. What is asked for is in the path.
MODES = {
    "PNG pair, flo": ("/v1/flow", 2, ".png"),
    "JPEG pair, flo": ("/v1/flow", 2, ".jpg"),
    "JPEG pair, npy float16": ("/v1/flow?format=npy&dtype=float16", 2, ".jpg"),
    "JPEG pair, kitti": ("/v1/flow?format=kitti", 2, ".jpg"),
    "JPEG clip of 9, npz float16": ("/v1/analyze?dtype=float16", 9, ".jpg"),
}


def main() -> None:
    arguments = parse_arguments()
    site = Site(**{name: getattr(arguments, name) for name in Site.__dataclass_fields__})
    if arguments.costs is None:
        width, height = arguments.size
        figures, costs = measured(width, height, arguments.requests)
    else:
        figures, costs = read(arguments.costs)
    figures |= {
        "site": asdict(site) | {"gpu_source": arguments.gpu_source},
        "plans": {
            mode: {f"{rate:g}/s": plan(cost, site, rate) for rate in RATES} for mode, cost in costs.items()
        },
    }
    if site.gpu_ms is not None:
        figures["waiting"] = {mode: waiting(cost, site) for mode, cost in costs.items()}
    report(figures, arguments.output)


def measured(width: int, height: int, requests: int) -> tuple[dict[str, Any], dict[str, Cost]]:
    figures: dict[str, Any] = {"machine": machine(), "frame": f"{width}x{height}"}
    costs = measure(width, height, requests)
    figures["cost_of_a_pair"] = {mode: rounded(asdict(cost)) for mode, cost in costs.items()}
    return figures, costs


def read(path: Path) -> tuple[dict[str, Any], dict[str, Cost]]:
    """What an earlier run measured, with its machine."""
    figures = json.loads(path.read_text())
    kept = {name: figures[name] for name in ("machine", "frame", "cost_of_a_pair")}
    return kept, {mode: Cost(**cost) for mode, cost in kept["cost_of_a_pair"].items()}


def measure(width: int, height: int, requests: int) -> dict[str, Cost]:
    """What each kind of request costs for a pair, by medians of three rounds."""
    engine = OnnxRuntimeEngine.load(ROOT / "model_repository", 1, 1)
    costs = {}
    with ServerProcess(fake=True, max_compute_pixels=2**21) as server:
        for mode, (path, count, suffix) in MODES.items():
            files = frames(width, height, count, suffix)
            rounds = [gateway_ms(server, path, files, requests) for _ in range(3)]
            sent, received = rounds[0][1:]
            fake = engine_ms(FakeEngine(), width, height, count)
            pairs = count - 1
            costs[mode] = Cost(
                gateway_ms=(float(np.median([ms for ms, *_ in rounds])) - fake) / pairs,
                engine_ms=engine_ms(engine, width, height, count) / pairs,
                bytes_in=sent / pairs,
                bytes_out=received / pairs,
                tensors_in=count * padded(width) * padded(height) * 3 / pairs,
                tensors_out=padded(width) * padded(height) * 2 * 4,  # float32, whatever the caller asks for
            )
    return costs


def gateway_ms(server: ServerProcess, path: str, files: list[bytes], requests: int) -> tuple[float, int, int]:
    """Processor time of the gateway and its decoders for a request, and the bytes of one, there and back."""
    names = ["frame1", "frame2"] if path.startswith("/v1/flow") else ["frames"] * len(files)
    parts = [(name, (f"{name}.image", data)) for name, data in zip(names, files, strict=True)]
    with httpx2.Client(base_url=server.url, timeout=TIMEOUT_S, trust_env=False) as http:
        for _ in range(3):  # warms up
            http.post(path, files=parts).raise_for_status()
        before = cpu_seconds(server.pid)
        for _ in range(requests):
            reply = http.post(path, files=parts).raise_for_status()
        used = cpu_seconds(server.pid) - before
        return 1000 * used / requests, int(reply.request.headers["content-length"]), len(reply.content)


def engine_ms(engine: Engine, width: int, height: int, count: int) -> float:
    """Processor time of one thread for a clip of so many frames."""
    clip = np.zeros((1, count, padded(height), padded(width), 3), np.uint8)
    return median_cpu_ms(lambda: engine.infer_flow(clip, backward=False, embed=False))


def median_cpu_ms(call: Callable[[], Awaitable[object]], runs: int = 5) -> float:
    async def repeat() -> list[float]:
        times = []
        for _ in range(runs + 1):
            began = time.process_time()
            await call()
            times.append(1000 * (time.process_time() - began))
        return times[1:]

    return float(np.median(asyncio.run(repeat())))


def padded(length: int, stride: int = 64) -> int:
    return math.ceil(length / stride) * stride


def plan(cost: Cost, site: Site, rate: float) -> dict[str, Any]:
    """Machines for so many pairs a second, and what binds their number; without Triton, and with it."""
    traffic = {
        "from_callers_gbit": gbit(rate * cost.bytes_in),
        "to_callers_gbit": gbit(rate * cost.bytes_out),
        "egress_an_hour": times(site.egress_price, rate * cost.bytes_out * 3600 / 1e9),
    }
    embedded = tier(
        site,
        {"processor": rate * (cost.gateway_ms + cost.engine_ms) / 1000 / site.cores},
        traffic_gbit=gbit(rate * max(cost.bytes_in, cost.bytes_out)),
        machine_price=times(site.core_price, site.cores),
    )
    plans = {"traffic": rounded(traffic), "embedded": embedded}
    if site.gpu_ms is None:
        return plans
    gateways = tier(
        site,
        {"processor": rate * (cost.gateway_ms + site.grpc_ms) / 1000 / site.cores},
        traffic_gbit=gbit(rate * max(cost.bytes_in + cost.tensors_out, cost.bytes_out + cost.tensors_in)),
        machine_price=times(site.core_price, site.cores),
    )
    tritons = tier(
        site,
        {"GPU": rate * site.gpu_ms / 1000 / site.gpus},
        traffic_gbit=gbit(rate * max(cost.tensors_in, cost.tensors_out)),
        machine_price=site.gpu_machine_price,
    )
    return plans | {"gateways": gateways, "tritons": tritons}


def tier(
    site: Site, busy: dict[str, float], traffic_gbit: float, machine_price: float | None
) -> dict[str, Any]:
    """Machines of one kind: as many as the scarcest of their parts wants. ``busy`` is in whole machines."""
    wanted = {**busy, "network": traffic_gbit / site.network_gbit}
    binding = max(wanted, key=lambda part: wanted[part])
    machines = math.ceil(wanted[binding] / site.load)
    return {
        "machines": machines,
        "bound_by": binding,
        "load": {part: round(amount / machines, 3) for part, amount in wanted.items()},
        "an_hour": rounded(times(machine_price, machines)),
    }


def waiting(cost: Cost, site: Site) -> dict[str, Any]:
    """Simulated time of a pair inside, at the planned size for :data:`CELL` pairs a second."""
    assert site.gpu_ms is not None
    sizes = plan(cost, site, CELL)
    cell = Cell(
        rate=CELL,
        gateways=sizes["gateways"]["machines"] * site.cores // site.gateway_cores,
        cores=site.gateway_cores,
        gpus=sizes["tritons"]["machines"] * site.gpus,
        gateway_s=(cost.gateway_ms + site.grpc_ms) / 1000,
        gpu_s=site.gpu_ms / 1000,
    )
    simulated = {f"{share:g} of the machines": simulate(cell.shrunk(share)) for share in (1.0, 0.7)}
    return {
        "cell": asdict(cell),
        "formula_mean_ms": round(1000 * expected_latency(cell), 2),
        **{name: rounded(asdict(result)) for name, result in simulated.items()},
    }


def gbit(bytes_per_second: float) -> float:
    return bytes_per_second * 8 / 1e9


def times(unit: float | None, count: float) -> float | None:
    return None if unit is None else unit * count


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = Site()
    parser.add_argument("--size", type=_size, default=(1024, 448), metavar="WxH", help="of the frames, px")
    parser.add_argument("--requests", type=int, default=20, help="a round; default %(default)s")
    parser.add_argument("--costs", type=Path, help="an earlier --output, whose measured costs are taken")
    parser.add_argument("--load", type=float, default=defaults.load, help="that is planned for, 0 to 1")
    parser.add_argument("--cores", type=int, default=defaults.cores, help="of a gateway's machine")
    parser.add_argument("--gateway-cores", type=int, default=defaults.gateway_cores, help="of one gateway")
    parser.add_argument("--network-gbit", type=float, default=defaults.network_gbit, help="each way")
    parser.add_argument("--gpus", type=int, default=defaults.gpus, help="of a machine with GPUs")
    parser.add_argument("--grpc-ms", type=float, default=defaults.grpc_ms, help="docs/decisions/0012")
    parser.add_argument("--gpu-ms", type=float, help="GPU time of a pair: an assumption, or your measurement")
    parser.add_argument("--gpu-source", default="not given", help="where that number is from")
    parser.add_argument("--core-price", type=float, help="of a core, an hour")
    parser.add_argument("--gpu-machine-price", type=float, help="of a machine with GPUs, an hour")
    parser.add_argument("--egress-price", type=float, help="of 1e9 bytes to callers")
    parser.add_argument("--output", type=Path, help="also into this file, as JSON")
    return parser.parse_args()


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height)


if __name__ == "__main__":
    main()
