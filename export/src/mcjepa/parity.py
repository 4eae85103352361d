"""Parity: the exported ONNX files against torch, on real frames at three sizes; a mismatch is an error.

Torch computes in float64: in float32 it is itself up to 0.01 px off at sharp matches, more than the graph is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from mcjepa.data.files import decode_rgb, list_images
from mcjepa.errors import McjepaError
from mcjepa.model import MCJEPA
from mcjepa.onnx_export import Graph, graphs
from mcjepa.pictures import to_square
from mcjepa.predictors import OnnxModels
from mcjepa.quality import QUALITIES, flow_name

SIZES = ((128, 192), (256, 448), (448, 1024))  # (H, W) px
FLOW_LIMIT = 0.01  # px, the largest difference of any vector
EMBEDDING_LIMIT = 1e-4  # cosine distance

Run = Callable[[np.ndarray, str], np.ndarray]  # one output of what was exported for a batch, by its name


class ParityError(McjepaError):
    """The exported models and torch differ by more than the limits."""


@dataclass(frozen=True)
class Parity:
    """The largest differences of one exported model at one size."""

    model: str
    size: str  # HxW px
    flow_px: float | None  # None where the model has no flow
    embedding_cosine: float
    rounding_px: float = 0.0  # what torch's own float32 makes of the flow

    @property
    def passed(self) -> bool:
        """Rounding is allowed for: whether a vector ends inside the frame is a yes or no, and hangs on it."""
        return not self.excess()

    def excess(self) -> str:
        """The model, its size and what is not within its limit there; empty where all is."""
        limit, flow = FLOW_LIMIT + self.rounding_px, self.flow_px or 0.0
        over = []
        if not flow < limit:
            over.append(f"flow {flow:.2g} px (limit {limit:.2g})")
        if not self.embedding_cosine < EMBEDDING_LIMIT:
            over.append(f"cosine distance {self.embedding_cosine:.2g} (limit {EMBEDDING_LIMIT:g})")
        return f"{self.model} at {self.size}: {', '.join(over)}" if over else ""


def read_frames(path: Path, count: int = 3) -> list[np.ndarray]:
    """The first frames of a video or of a folder of images, all of one size: uint8 (H, W, 3) RGB.

    Raises ValueError where there are fewer than `count`.
    """
    if path.is_dir():
        frames = [decode_rgb(ref.read()) for ref in list_images(path)[:count]]
    else:
        frames = _decode(path, count)
    if len(frames) < count or len({f.shape for f in frames}) > 1:
        raise ValueError(f"{path}: {count} frames of one size are needed, found {[f.shape for f in frames]}")
    return frames


def check_parity(model: MCJEPA, repository: Path, frames: Sequence[np.ndarray]) -> list[Parity]:
    """Every exported model in `repository` against `model`. Raises ParityError over the limits.

    The reports of all models and sizes, also the good ones, are in the message of the error.
    """
    onnx = OnnxModels(repository)
    clips = [np.stack([cv2.resize(f, (w, h)) for f in frames])[None] for h, w in SIZES]
    images = [np.stack([to_square(f, onnx.image_size) for f in frames])]
    of_quality = {flow_name(quality): quality for quality in QUALITIES}
    reports = []
    for graph in graphs(model):
        runs: dict[str, Run] = {graph.name: partial(onnx.run, graph.name)}
        if graph.name in of_quality:
            runs[f"{graph.name} in parts"] = partial(onnx.run_parts, of_quality[graph.name])
        for batch in images if graph.input_name == "images" else clips:
            reports += _compare(graph, runs, batch)
    if not all(report.passed for report in reports):
        raise ParityError(
            f"ONNX Runtime and torch differ in {'; '.join(r.excess() for r in reports if not r.passed)}\n"
            f"flow limit {FLOW_LIMIT} px + rounding, cosine limit {EMBEDDING_LIMIT}\n{parity_table(reports)}"
        )
    return reports


def _compare(graph: Graph, runs: dict[str, Run], batch: np.ndarray) -> list[Parity]:
    """What was exported of a model, in each of its forms, against torch."""
    expected, rounded = (
        dict(zip(graph.output_names, _run_torch(graph.module, batch, dtype), strict=True))
        for dtype in (torch.float64, torch.float32)
    )
    own = _flow_gap(expected, rounded) or 0.0
    h, w = batch.shape[-3:-1]
    reports = []
    for name, run in runs.items():
        found = {output: run(batch, output) for output in graph.output_names}
        cosine = cosine_distance(expected["embedding"], found["embedding"])
        reports.append(Parity(name, f"{h}x{w}", _flow_gap(expected, found), cosine, own))
    return reports


def _flow_gap(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> float | None:
    """The largest difference (px) of the flows among the outputs, None where there are none."""
    flows = [name for name in one if name.startswith("flow")]
    return max((float(np.abs(one[name] - two[name]).max()) for name in flows), default=None)


@torch.no_grad()
def _run_torch(module: nn.Module, batch: np.ndarray, dtype: torch.dtype) -> list[np.ndarray]:
    return [output.numpy() for output in copy.deepcopy(module).to(dtype).eval()(torch.from_numpy(batch))]


def cosine_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest 1 - cosine between the vectors (..., D) of two arrays; 0 at best."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    cosine = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return max(float(1 - cosine.min()), 0.0)


def parity_table(reports: Sequence[Parity]) -> str:
    """Reports as a Markdown table."""
    lines = [
        "| model | size | largest flow difference, px | of torch in float32, px | largest cosine distance |",
        "|---|---|---|---|---|",
    ]
    for r in reports:
        flow, own = ("-" if r.flow_px is None else f"{px:.1e}" for px in (r.flow_px, r.rounding_px))
        lines.append(f"| {r.model} | {r.size} | {flow} | {own} | {r.embedding_cosine:.1e} |")
    return "\n".join(lines)


def parity_rows(reports: Sequence[Parity]) -> list[dict[str, Any]]:
    """Reports as plain dictionaries, ready for JSON."""
    return [asdict(report) for report in reports]


def _decode(video: Path, count: int) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(video))
    try:
        frames = [frame for ok, frame in (capture.read() for _ in range(count)) if ok]
    finally:
        capture.release()
    return [cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) for frame in frames]
