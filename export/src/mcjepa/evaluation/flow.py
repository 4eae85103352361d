"""Flow against ground truth, beside two baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mcjepa import metrics
from mcjepa.data.benchmarks import FlowSample, open_benchmark
from mcjepa.evaluation.panels import error_colours, flow_colours, write_panels
from mcjepa.evaluation.tables import markdown_table
from mcjepa.predictors import FlowPredictor, OnnxModels, TorchModel, dis_flow, zero_flow

Row = dict[str, Any]
METRICS = ("epe", "fl_all", "px1", "epe_noc", "epe_occ")
PICTURES = 3  # of the best pairs, and of the worst
ERROR_LIMIT = 10.0  # px, the brightest colour of an error map


def evaluate_flow(
    models: OnnxModels | TorchModel, benchmark: Path, pictures: Path | None = None
) -> list[Row]:
    """One row a method and data set, then one over all pairs ("all").

    Each: method, dataset, pairs, and over the pairs the mean and the median of their end-point errors (epe,
    median_epe: px), the mean Fl-all (fl_all) and the mean share off by over 1 px (px1), both in per cent;
    where the data set says what is occluded, also the mean end-point error of the points that frame 2 shows
    and of those that it does not (epe_noc, epe_occ), else None. pictures: a folder for pictures of the pairs
    with the smallest and the largest error.
    """
    methods: dict[str, FlowPredictor] = {"zero": zero_flow, "DIS medium": dis_flow, "mcjepa": models.flow}
    samples = open_benchmark(benchmark)
    errors = [_errors(sample, methods) for sample in tqdm(samples, unit="pair", desc="flow")]
    if pictures is not None:
        _draw_extremes(samples, [e["mcjepa"][0] for e in errors], models.flow, pictures)
    names = list(dict.fromkeys(sample.dataset for sample in samples))
    groups = {name: [i for i, s in enumerate(samples) if s.dataset == name] for name in names}
    groups["all"] = list(range(len(samples)))
    return [
        _summary(method, name, np.array([errors[i][method] for i in indices]))
        for name, indices in groups.items()
        for method in methods
    ]


def _errors(sample: FlowSample, methods: Mapping[str, FlowPredictor]) -> dict[str, list[float]]:
    """METRICS of each method on one pair; NaN where there is nothing to measure."""
    img1, img2 = sample.frames()
    gt, valid = sample.ground_truth()
    seen = sample.visible()
    parts = [np.zeros_like(valid)] * 2 if seen is None else [valid & seen, valid & ~seen]
    errors = {}
    for method, predict in methods.items():
        flow = predict(img1, img2)
        whole = [metric(flow, gt, valid) for metric in (metrics.epe, metrics.fl_all, metrics.px1)]
        errors[method] = whole + [metrics.epe(flow, gt, p) if p.any() else float("nan") for p in parts]
    return errors


def _summary(method: str, dataset: str, errors: np.ndarray) -> Row:
    """errors (pairs, METRICS)."""
    row: Row = {"method": method, "dataset": dataset, "pairs": len(errors)}
    row |= {name: _mean(column) for name, column in zip(METRICS, errors.T, strict=True)}
    return row | {"median_epe": round(float(np.median(errors[:, 0])), 3)}


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return round(float(known.mean()), 3) if len(known) else None


def _draw_extremes(
    samples: Sequence[FlowSample], epe: Sequence[float], predict: FlowPredictor, folder: Path
) -> None:
    order = np.argsort(epe)
    for rank, i in enumerate(order[:PICTURES], start=1):
        _draw(samples[i], predict, folder / f"flow-best-{rank}.png")
    for rank, i in enumerate(order[::-1][:PICTURES], start=1):
        _draw(samples[i], predict, folder / f"flow-worst-{rank}.png")


def _draw(sample: FlowSample, predict: FlowPredictor, path: Path) -> None:
    img1, img2 = sample.frames()
    gt, valid = sample.ground_truth()
    flow = predict(img1, img2)
    error = np.linalg.norm(flow - gt, axis=-1)
    limit = float(np.quantile(np.linalg.norm(gt[valid], axis=-1), 0.99))
    known = np.where(valid[..., None], flow_colours(gt, limit), np.uint8(128))
    panels = [
        (f"{sample.dataset} {sample.name}: frame 1", img1),
        ("frame 2", img2),
        (f"true flow, to {limit:.0f} px", known),
        ("predicted flow", flow_colours(flow, limit)),
        (
            f"error {error[valid].mean():.2f} px, yellow at {ERROR_LIMIT:.0f} px",
            error_colours(error, valid, ERROR_LIMIT),
        ),
    ]
    write_panels(path, panels)


def flow_table(rows: Sequence[Row]) -> str:
    """The result of `evaluate_flow` as a Markdown table; the last two columns only where known."""
    columns = {
        "data set": "dataset",
        "pairs": "pairs",
        "method": "method",
        "mean EPE, px": "epe",
        "median EPE, px": "median_epe",
        "Fl-all, %": "fl_all",
        "over 1 px, %": "px1",
    }
    if any(row.get("epe_noc") is not None for row in rows):
        columns |= {"EPE not occluded, px": "epe_noc", "EPE occluded, px": "epe_occ"}
    return markdown_table(columns, rows)
