"""Flow against ground truth, beside two baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mcjepa import metrics
from mcjepa.data.benchmarks import FlowSample, open_benchmark
from mcjepa.predictors import FlowPredictor, OnnxModels, TorchModel, dis_flow, zero_flow

Row = dict[str, Any]


def evaluate_flow(models: OnnxModels | TorchModel, benchmark: Path) -> list[Row]:
    """One row a method and data set, then one over all pairs ("all").

    Each: method, dataset, pairs, and over the pairs the mean and the median of their end-point errors (epe,
    median_epe: px), the mean Fl-all (fl_all) and the mean share off by over 1 px (px1), both in per cent.
    """
    methods: dict[str, FlowPredictor] = {"zero": zero_flow, "DIS medium": dis_flow, "mcjepa": models.flow}
    samples = open_benchmark(benchmark)
    errors = [_errors(sample, methods) for sample in tqdm(samples, unit="pair", desc="flow")]
    names = list(dict.fromkeys(sample.dataset for sample in samples))
    groups = {name: [i for i, s in enumerate(samples) if s.dataset == name] for name in names}
    groups["all"] = list(range(len(samples)))
    return [
        _summary(method, name, [errors[i][method] for i in indices])
        for name, indices in groups.items()
        for method in methods
    ]


def _errors(
    sample: FlowSample, methods: Mapping[str, FlowPredictor]
) -> dict[str, tuple[float, float, float]]:
    img1, img2 = sample.frames()
    gt, valid = sample.ground_truth()
    errors = {}
    for method, predict in methods.items():
        flow = predict(img1, img2)
        errors[method] = (
            metrics.epe(flow, gt, valid),
            metrics.fl_all(flow, gt, valid),
            metrics.px1(flow, gt, valid),
        )
    return errors


def _summary(method: str, dataset: str, errors: Sequence[tuple[float, float, float]]) -> Row:
    epe, fl_all, px1 = np.array(errors).T
    return {
        "method": method,
        "dataset": dataset,
        "pairs": len(errors),
        "epe": round(float(epe.mean()), 3),
        "median_epe": round(float(np.median(epe)), 3),
        "fl_all": round(float(fl_all.mean()), 2),
        "px1": round(float(px1.mean()), 2),
    }


def flow_table(rows: Sequence[Row]) -> str:
    """The result of `evaluate_flow` as a Markdown table."""
    lines = [
        "| data set | pairs | method | mean EPE, px | median EPE, px | Fl-all, % | over 1 px, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        cells = (r["dataset"], r["pairs"], r["method"], r["epe"], r["median_epe"], r["fl_all"], r["px1"])
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)
