"""Inference on one NVIDIA GPU: flow beside RAFT-small of torchvision, and embeddings.

PYTHONPATH=export/src python benchmarks/gpu.py [--checkpoint export/weights/nano] [--batches 1 4 16 64]
                                               [--seconds 0.3] [--output FILE.json]

Frames are 448x1024, uint8 and on the GPU already, as are the flows in the end. Each precision runs call by
call as torch does it (eager), float16 (autocast) also as a CUDA graph. A time is the median from event to
event of calls made back to back; memory is the peak that the allocator gave out, with weights and inputs.
RAFT-small makes 12 updates; its weights are random, which its time does not depend on. float32 is torch's
own: TF32 in convolutions, not in matrix products. Multiplications and additions are those of convolutions
and matrix products, as torch's counter gives them.
"""

from __future__ import annotations

import argparse
import copy
import gc
import statistics
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from common import HEIGHT, WIDTH, Uint8Array, machine, rounded, write_json
from mcjepa.checkpoint import load
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
DEVICE = "cuda"
SETS = 3  # of inputs, that take turns
SHIFT = (9, -6)  # px, (x, y), that the second frame of a pair is cut further
SIDE, EMBED_BATCHES = 128, (1, 32, 256)
RAFT_UPDATES, RAFT_MOST = 12, 16  # its correlation takes 0.3 GiB a pair in float32
WARM_UP = 3
GEMM, COPY = 8192, 2**30

Inputs = tuple[Tensor, ...]
Call = Callable[[Inputs], Tensor]


class Mode(NamedTuple):
    half: bool
    graph: bool


MODES = {"float32": Mode(False, False), "float16": Mode(True, False), "float16 graph": Mode(True, True)}


@dataclass(frozen=True)
class Subject:
    """What is measured: `call` on one of the batches that `sets` puts on the GPU."""

    name: str
    call: Call
    sets: Callable[[int], list[Inputs]]
    batches: list[int]
    modes: tuple[str, ...] = tuple(MODES)
    in_graph: Callable[[], AbstractContextManager[object]] = nullcontext  # what a capture needs around a call


class OnGpu(TorchFunctionMode):
    """Makes there the grids that torchvision makes on the CPU and copies, which no capture allows."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        where = {"device": DEVICE} if func in (torch.arange, torch.linspace) else {}
        return func(*args, **(kwargs or {}) | where)


def main() -> None:
    args = _arguments()
    if not torch.cuda.is_available():
        sys.exit("torch finds no CUDA GPU here, and this measures inference on one")
    torch.backends.cudnn.benchmark = args.search
    picture = texture(2 * HEIGHT, 2 * WIDTH)
    report: dict[str, Any] = {"machine": describe(), "seconds": args.seconds, "search": args.search}
    print("\n".join(f"{name}: {value}" for name, value in report["machine"].items()), flush=True)
    report["peak"] = attempt(peaks)
    print(report["peak"], flush=True)
    subjects = [*nano_subjects(args.checkpoint, picture, args.batches), *raft_subjects(picture, args.batches)]
    report["flow_px"] = attempt(accuracy, subjects[0])
    report["rows"] = rows(subjects, args.seconds, report["peak"].get("gemm_tflops"))
    report["graph_px"] = attempt(graph_error, subjects[0])
    show(report)
    if args.output:
        write_json(args.output, report)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "export/weights/nano", metavar="DIR")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[1, 4, 16, 64], metavar="N", help="of pairs"
    )
    parser.add_argument("--seconds", type=float, default=0.3, help="of each measurement (default: 0.3)")
    parser.add_argument("--search", action="store_true", help="let cuDNN time its algorithms; takes minutes")
    parser.add_argument("--output", type=Path, help="write the numbers as JSON")
    return parser.parse_args()


def describe() -> dict[str, Any]:
    gpu = torch.cuda.get_device_properties(0)
    return {
        "gpu": gpu.name,
        "gpu_mib": gpu.total_memory // 2**20,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    } | machine(torch.get_num_threads())


@torch.inference_mode()
def peaks() -> dict[str, float]:
    """What the GPU gives at best: a float16 matrix product, and a copy, bytes read and written."""
    a, b = (torch.randn(GEMM, GEMM, device=DEVICE, dtype=torch.float16) for _ in range(2))
    product = statistics.median(call_ms(lambda _: a @ b, [()], 0.3))
    here, there = (torch.zeros(COPY, device=DEVICE, dtype=torch.uint8) for _ in range(2))
    moved = statistics.median(call_ms(lambda _: there.copy_(here), [()], 0.1))
    return {"gemm_tflops": rounded(2 * GEMM**3 / product / 1e9), "copy_gb_s": rounded(2 * COPY / moved / 1e6)}


def nano_subjects(checkpoint: Path, picture: Uint8Array, batches: list[int]) -> list[Subject]:
    model = load(checkpoint).model.eval().to(DEVICE)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def flow(inputs: Inputs) -> Tensor:
        result: Tensor = model(*inputs).flow
        return result

    def embedding(inputs: Inputs) -> Tensor:
        result: Tensor = model.embed(model.encode(*inputs))
        return result

    def squares(batch: int) -> list[Inputs]:
        return cuts(picture, batch, (SIDE, SIDE), frames=1)

    return [
        Subject("nano", flow, lambda batch: pairs(picture, batch), batches),
        Subject("nano embedding", embedding, squares, list(EMBED_BATCHES), ("float16 graph",)),
    ]


def raft_subjects(picture: Uint8Array, batches: list[int]) -> list[Subject]:
    """As torchvision gives it, and in the memory layout that float16 convolutions prefer."""
    try:
        raft = import_module("torchvision.models.optical_flow").raft_small(weights=None).eval().to(DEVICE)
    except Exception as error:
        print(f"RAFT-small is not measured: {reason(error)}", flush=True)
        return []
    batches = [batch for batch in batches if batch <= RAFT_MOST]
    last = copy.deepcopy(raft).to(memory_format=torch.channels_last)

    def planes(batch: int) -> list[Inputs]:
        return [tuple(images.contiguous() for images in inputs) for inputs in pairs(picture, batch)]

    def pixels(batch: int) -> list[Inputs]:
        return pairs(picture, batch)

    half = ("float16", "float16 graph")
    return [
        Subject("RAFT-small", raft_flow(raft), planes, batches, in_graph=OnGpu),
        Subject("RAFT-small, channels last", raft_flow(last), pixels, batches, half, OnGpu),
    ]


def raft_flow(raft: Any) -> Call:
    def flow(inputs: Inputs) -> Tensor:
        one, two = (images.float() / 127.5 - 1.0 for images in inputs)
        result: Tensor = raft(one, two, num_flow_updates=RAFT_UPDATES)[-1]
        return result

    return flow


def rows(subjects: list[Subject], seconds: float, peak: float | None) -> list[dict[str, Any]]:
    """Of each subject, mode and batch; graphs come last: a capture that fails may harm what follows."""
    counted = {subject.name: attempt(gmac, subject) for subject in subjects}
    plan = [(s, mode, batch) for s in subjects for mode in s.modes for batch in s.batches]
    result = {}
    for subject, mode, batch in sorted(plan, key=lambda task: MODES[task[1]].graph):
        row: dict[str, Any] = {"model": subject.name, "mode": mode, "batch": batch} | counted[subject.name]
        row |= attempt(measure, subject, mode, batch, seconds)
        if "ms" in row and "gmac" in row:
            row["tflops"] = rounded(2 * row["gmac"] * batch / row["ms"])
            row |= {"share": rounded(row["tflops"] / peak)} if peak else {}
        print(row, flush=True)
        result[subject.name, mode, batch] = row
    return [result[subject.name, mode, batch] for subject, mode, batch in plan]


@torch.no_grad()
def gmac(subject: Subject) -> dict[str, float]:
    """Thousand millions of multiplications and additions for one pair or image."""
    inputs = subject.sets(1)[0]
    with FlopCounterMode(display=False) as counter:
        subject.call(inputs)
    return {"gmac": rounded(counter.get_total_flops() / 2e9)}


@torch.inference_mode()
def measure(subject: Subject, mode: str, batch: int, seconds: float) -> dict[str, float]:
    gc.collect()
    torch.cuda.empty_cache()
    sets = subject.sets(batch)
    times = call_ms(prepare(subject, mode, sets[0]), sets, seconds)
    ms = statistics.median(times)
    return {
        "per_s": rounded(1000 * batch / ms),
        "ms": rounded(ms),
        "p90_ms": rounded(np.percentile(times, 90)),
        "runs": len(times),
        "mib": round(torch.cuda.max_memory_allocated() / 2**20),
    }


def prepare(subject: Subject, mode: str, example: Inputs) -> Call:
    """The subject's call in a mode, warmed up; from here on the allocator's peak is that of this call."""
    half, graph = MODES[mode]

    def run(inputs: Inputs) -> Tensor:
        around = subject.in_graph() if graph else nullcontext()
        with around, torch.autocast(DEVICE, torch.float16, enabled=half, cache_enabled=not graph):
            return subject.call(inputs)

    if graph:
        return capture(run, example)
    for _ in range(WARM_UP):
        run(example)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return run


def capture(run: Call, example: Inputs) -> Call:
    """A call as a CUDA graph: inputs are copied to where it reads them, each output overwrites the last."""
    read = tuple(images.clone() for images in example)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            run(read)
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):  # goes back if that fails
        written = run(read)

    def replay(inputs: Inputs) -> Tensor:
        for there, images in zip(read, inputs, strict=True):
            there.copy_(images)
        graph.replay()
        return written

    return replay


def call_ms(call: Call, sets: list[Inputs], seconds: float) -> list[float]:
    """Milliseconds of each of many calls back to back, launches included where the GPU waits for them."""
    event: Any = torch.cuda.Event  # untyped

    def timed(count: int) -> list[float]:
        marks: list[Any] = [event(enable_timing=True) for _ in range(count + 1)]
        marks[0].record()
        for i, mark in enumerate(marks[1:]):
            call(sets[i % len(sets)])
            mark.record()
        torch.cuda.synchronize()
        return [before.elapsed_time(after) for before, after in pairwise(marks)]

    once = statistics.median(timed(WARM_UP))
    return timed(min(max(round(1000 * seconds / once), 5), 1000))


@torch.inference_mode()
def accuracy(subject: Subject) -> dict[str, dict[str, float]]:
    """Distances of the flows of one pair from the one in float32 without TF32."""
    pair = subject.sets(1)[0]
    allowed, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        exact = subject.call(pair)
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
    truth = -torch.tensor(SHIFT, device=DEVICE)[:, None, None]
    return {
        "the true shift": distance(truth, exact),
        "float32 with TF32": distance(prepare(subject, "float32", pair)(pair), exact),
        "float16": distance(prepare(subject, "float16", pair)(pair), exact),
    }


@torch.inference_mode()
def graph_error(subject: Subject) -> dict[str, float]:
    """The same for a float16 graph from eager float16; it was captured with another pair."""
    other, pair = subject.sets(1)[:2]
    eager = prepare(subject, "float16", other)(pair)
    return distance(prepare(subject, "float16 graph", other)(pair), eager)


def distance(flow: Tensor, other: Tensor) -> dict[str, float]:
    """px, (B, 2, H, W) each."""
    gaps = torch.linalg.vector_norm(flow.float() - other, dim=1)
    return {"mean": rounded(gaps.mean().item()), "max": rounded(gaps.max().item())}


def texture(height: int, width: int) -> Uint8Array:
    """Smooth noise of many sizes, the large ones stronger, as in photographs: (H, W, 3)."""
    rng = np.random.default_rng(0)
    total = np.zeros((height, width, 3), np.float32)
    for cell in (2, 4, 8, 16, 32, 64, 128):
        noise = rng.standard_normal((height // cell, width // cell, 3), np.float32)
        total += cell**0.7 * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    picture: Uint8Array = np.clip(118 + 55 * total / total.std(), 0, 255).astype(np.uint8)
    return picture


def pairs(picture: Uint8Array, batch: int) -> list[Inputs]:
    return cuts(picture, batch, (HEIGHT, WIDTH), frames=2)


def cuts(picture: Uint8Array, batch: int, size: tuple[int, int], frames: int) -> list[Inputs]:
    """SETS times `frames` batches of parts of a picture: (B, 3, H, W) uint8, the channels last in memory."""
    rng = np.random.default_rng(0)
    (h, w), edge = size, max(map(abs, SHIFT))
    result = []
    for _ in range(SETS):
        tops = rng.integers(edge, picture.shape[0] - h - edge, batch)
        lefts = rng.integers(edge, picture.shape[1] - w - edge, batch)
        images = []
        for frame in range(frames):
            corners = zip(tops + frame * SHIFT[1], lefts + frame * SHIFT[0], strict=True)
            parts = np.stack([picture[y : y + h, x : x + w] for y, x in corners])
            images.append(torch.from_numpy(parts).to(DEVICE).permute(0, 3, 1, 2))
        result.append(tuple(images))
    return result


def attempt(work: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """What `work` gives, or why it gives nothing: the rest goes on."""
    try:
        return work(*args)
    except Exception as error:
        return {"not_measured": reason(error)}


def reason(error: BaseException) -> str:
    """Of the first error: what failed within a capture comes before what the end of the capture says."""
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def show(report: dict[str, Any]) -> None:
    about, peak = report["machine"], report["peak"]
    print(
        f"\n{about['gpu']}, torch {about['torch']}, CUDA {about['cuda']}, {about['processor']}; peak {peak}"
    )
    print(f"px of one flow of nano from float32: {report['flow_px']}")
    print(f"px of its float16 graph from float16: {report['graph_px']}")
    print("\n| model | mode | batch | pairs or images/s | ms a batch | MiB | TFLOP/s | of the peak |")
    print("|---|---|---|---|---|---|---|---|")
    for row in report["rows"]:
        print(line(row))


def line(row: dict[str, Any]) -> str:
    """One row of the table, a failure's reason in place of the rate."""
    rate = row.get("per_s", f"not measured: {row.get('not_measured')}")
    share = f"{100 * row['share']:.2g} %" if "share" in row else ""
    cells = [
        row["model"],
        row["mode"],
        row["batch"],
        rate,
        *(row.get(k, "") for k in ("ms", "mib", "tflops")),
    ]
    shown = [f"{cell:g}" if isinstance(cell, float) else str(cell) for cell in cells]
    return f"| {' | '.join([*shown, share])} |"


if __name__ == "__main__":
    main()
