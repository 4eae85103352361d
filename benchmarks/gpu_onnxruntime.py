"""Flow in ONNX Runtime on one NVIDIA GPU, beside torch on the same GPU in the same run.

PYTHONPATH=export/src python benchmarks/gpu_onnxruntime.py [--batches 1 4 16] [--seconds 0.3]
                                                           [--output FILE.json]

Needs onnxruntime-gpu, of the CUDA that torch has. Pairs of 448x1024, uint8 and on the GPU already, as flows
and embeddings are in the end; torch makes no embeddings. A time is that from a call to its end, the median of
calls one after the other, each of which waits for the GPU. The graph is that of model_repository, its sizes
fixed, in float32 (TF32 in convolutions and products); as a CUDA graph it is recorded by ONNX Runtime.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu
import numpy as np
import onnxruntime as ort
import torch
from common import HEIGHT, WIDTH, rounded, write_json
from torch import Tensor

CHECKPOINT = gpu.ROOT / "export/weights/nano"
MODEL = gpu.ROOT / "model_repository/mcjepa_flow/1/model.onnx"
SIZES = {"frames": 2, "height": HEIGHT, "width": WIDTH}  # by the names that the graph has
OPTIONS = {"ONNX Runtime": {}, "ONNX Runtime, CUDA graph": {"enable_cuda_graph": "1"}}
COLUMNS = ("runtime", "batch", "per_s", "ms", "p90_ms", "over_torch", "px_mean", "px_max", "not_measured")


def main() -> None:
    args = _arguments()
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        sys.exit("onnxruntime has no CUDA provider here, and this measures it: install onnxruntime-gpu")
    machine = gpu.describe() | {"onnxruntime": ort.__version__}
    print("\n".join(f"{name}: {value}" for name, value in machine.items()))
    print(f"\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    picture = gpu.texture(2 * HEIGHT, 2 * WIDTH)
    subject = gpu.nano_subjects(CHECKPOINT, picture, args.batches)[0]
    rows = [row for batch in args.batches for row in _rows(subject, batch, args.seconds)]
    if args.output:
        write_json(args.output, {"machine": machine, "rows": rows})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16], metavar="N", help="of pairs")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each measurement (default: 0.3)")
    parser.add_argument("--output", type=Path, help="write the numbers as JSON")
    return parser.parse_args()


def _rows(subject: gpu.Subject, batch: int, seconds: float) -> list[dict[str, Any]]:
    """Of torch and of ONNX Runtime, for one size of batch; each is printed at once."""
    pair = subject.sets(batch)[0]
    exact, first = _torch(subject, pair, seconds)
    rows: list[dict[str, Any]] = [{"runtime": "torch, float16, CUDA graph", "batch": batch} | first]
    for name, options in OPTIONS.items():
        measured = gpu.attempt(_onnx_runtime, options, pair, exact, seconds)
        rows.append({"runtime": name, "batch": batch} | measured)
    for row in rows:
        if "ms" in row:
            row["per_s"] = rounded(1000 * batch / row["ms"])
            row["over_torch"] = rounded(rows[0]["ms"] / row["ms"])
        print(f"| {' | '.join(str(row.get(column, '')) for column in COLUMNS)} |", flush=True)
    return rows


@torch.inference_mode()
def _torch(subject: gpu.Subject, pair: gpu.Inputs, seconds: float) -> tuple[Tensor, dict[str, float]]:
    """The flow of a batch of pairs in float32, (B, 2, H, W) px, and the times in float16 as a CUDA graph."""
    graph = gpu.prepare(subject, "float16 graph", pair)

    def call() -> None:
        graph(pair)
        torch.cuda.synchronize()

    return subject.call(pair), _times(call, seconds)


def _onnx_runtime(
    options: dict[str, str], pair: gpu.Inputs, exact: Tensor, seconds: float
) -> dict[str, float]:
    """Times, and the distance of the flow from `exact`."""
    frames = torch.stack(pair, 1).permute(0, 1, 3, 4, 2).contiguous()  # (B, 2, H, W, 3)
    session = _open(options, len(frames))
    flow = torch.empty(len(frames), 1, 2, HEIGHT, WIDTH, device=gpu.DEVICE)
    embedding = torch.empty(len(frames), 2, session.get_outputs()[1].shape[2], device=gpu.DEVICE)
    binding = session.io_binding()
    _bind(binding.bind_input, "frames", frames, np.uint8)
    _bind(binding.bind_output, "flow", flow, np.float32)
    _bind(binding.bind_output, "embedding", embedding, np.float32)
    torch.cuda.synchronize()

    def call() -> None:
        session.run_with_iobinding(binding)

    for _ in range(gpu.WARM_UP):
        call()
    times = _times(call, seconds)
    return times | {f"px_{name}": gap for name, gap in gpu.distance(flow[:, 0], exact).items()}


def _open(options: dict[str, str], batch: int) -> ort.InferenceSession:
    settings = ort.SessionOptions()
    settings.log_severity_level = 3  # errors
    for name, size in (SIZES | {"batch": batch}).items():
        settings.add_free_dimension_override_by_name(name, size)
    # to try all algorithms for each of 262 convolutions takes minutes
    cuda = ("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC", **options})
    return ort.InferenceSession(MODEL, settings, providers=[cuda, "CPUExecutionProvider"])


def _bind(bind: Callable[..., None], name: str, values: Tensor, dtype: type) -> None:
    bind(name, gpu.DEVICE, 0, dtype, list(values.shape), values.data_ptr())


def _times(call: Callable[[], None], seconds: float) -> dict[str, float]:
    """ms of a call, median and 90th percentile, by the clock."""
    times: list[float] = []
    while sum(times) < 1000 * seconds or len(times) < 5:
        started = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started))
    return {"ms": rounded(statistics.median(times)), "p90_ms": rounded(np.percentile(times, 90))}


if __name__ == "__main__":
    main()
