"""Flow against ground truth, in every quality, beside classical methods."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from mcjepa import metrics
from mcjepa.data.benchmarks import FlowSample, open_benchmark
from mcjepa.evaluation.panels import error_colours, flow_colours, write_panels
from mcjepa.evaluation.tables import markdown_table
from mcjepa.predictors import CLASSICAL, FlowPredictor, OnnxModels, TorchModel

Row = dict[str, Any]
MOTIONS = {"epe_slow": (0.0, 10.0), "epe_medium": (10.0, 40.0), "epe_fast": (40.0, np.inf)}  # px, as Sintel's
PARTS = ("epe_noc", "epe_occ", *MOTIONS)
METRICS = ("epe", "fl_all", "px1", "px3", "ms", *PARTS)
PAIRS, SETS = "all pairs", "mean of sets"  # what the last rows of a benchmark are over
PICTURES = 3  # of the best pairs, and of the worst
ERROR_LIMIT = 10.0  # px, the brightest colour of an error map


def evaluate_flow(
    models: OnnxModels | TorchModel, benchmarks: Sequence[Path], pictures: Path | None = None
) -> list[Row]:
    """Measure the flow of `models` and of classical methods on folders of pairs with ground truth.

    One row a benchmark, data set and method, then one over all pairs of the benchmark and one in which each
    of its data sets counts alike. Each: benchmark (the folder's name), dataset, method, pairs, and over the
    pairs the mean, the median and the geometric mean of their end-point errors (epe, median_epe, geo_epe:
    px), the mean Fl-all (fl_all) and the mean shares off by over 1 and 3 px (px1, px3), all in per cent, the
    mean time of a pair (ms), and the mean end-point errors of points that move by less than 10 px, up to
    40 px, and further (epe_slow, epe_medium, epe_fast); where the data set says what is occluded, also of
    those that frame 2 shows and of those that it does not (epe_noc, epe_occ), else None. Where data sets
    count alike, a figure is the mean of theirs, geo_epe their geometric mean. pictures: a folder for pictures
    of the pairs with the smallest and the largest error. Raises ValueError where two benchmarks have one
    name, and as `open_benchmark` does.
    """
    names = [benchmark.resolve().name for benchmark in benchmarks]
    if len(set(names)) < len(names):
        raise ValueError(f"each benchmark needs a name of its own, got {', '.join(names)}")
    methods = CLASSICAL | {f"mcjepa {q.name}": partial(models.flow, quality=q) for q in models.qualities}
    best = list(methods)[-1]
    opened = dict(zip(names, map(open_benchmark, benchmarks), strict=True))
    samples = [sample for of_benchmark in opened.values() for sample in of_benchmark]
    errors = [_errors(sample, methods) for sample in tqdm(samples, unit="pair", desc="flow")]
    if pictures is not None:
        _draw_extremes(samples, [e[best][0] for e in errors], methods[best], pictures)
    rest = iter(errors)
    rows = []
    for name, of_benchmark in opened.items():
        found = [(sample.dataset, next(rest)) for sample in of_benchmark]
        rows += [{"benchmark": name} | row for row in _summaries(found, methods)]
    return rows


def _summaries(
    found: Sequence[tuple[str, Mapping[str, Sequence[float]]]], methods: Iterable[str]
) -> list[Row]:
    """The rows of a benchmark, of (data set, METRICS of each method) of each pair."""
    sets = list(dict.fromkeys(dataset for dataset, _ in found))
    rows: dict[str, list[Row]] = {}
    for method in methods:
        of_sets = [
            _summary(method, name, np.array([e[method] for dataset, e in found if dataset == name]))
            for name in sets
        ]
        over_all = _summary(method, PAIRS, np.array([e[method] for _, e in found]))
        for row in (*of_sets, over_all, _mean_of_sets(of_sets)):
            rows.setdefault(row["dataset"], []).append(row)
    return [row for group in rows.values() for row in group]


def _errors(sample: FlowSample, methods: Mapping[str, FlowPredictor]) -> dict[str, list[float]]:
    """METRICS of each method on one pair; NaN where there is nothing to measure."""
    img1, img2 = sample.frames()
    gt, valid = sample.ground_truth()
    seen = sample.visible()
    parts = [np.zeros_like(valid)] * 2 if seen is None else [valid & seen, valid & ~seen]
    length = np.linalg.norm(gt, axis=-1)
    parts += [valid & (length >= low) & (length < high) for low, high in MOTIONS.values()]
    errors = {}
    for method, predict in methods.items():
        begun = time.perf_counter()
        flow = predict(img1, img2)
        ms = 1000 * (time.perf_counter() - begun)
        over_all = (metrics.epe, metrics.fl_all, metrics.px1, metrics.px3)
        whole = [*(metric(flow, gt, valid) for metric in over_all), ms]
        errors[method] = whole + [metrics.epe(flow, gt, p) if p.any() else float("nan") for p in parts]
    return errors


def _summary(method: str, dataset: str, errors: np.ndarray) -> Row:
    """errors (pairs, METRICS)."""
    row: Row = {"dataset": dataset, "method": method, "pairs": len(errors)}
    row |= {name: _mean(column) for name, column in zip(METRICS, errors.T, strict=True)}
    return row | {
        "median_epe": round(float(np.median(errors[:, 0])), 3),
        "geo_epe": _geometric_mean(errors[:, 0]),
    }


def _mean_of_sets(rows: Sequence[Row]) -> Row:
    """One row of the rows of one method; each data set counts alike, however many pairs it has."""
    row: Row = {"dataset": SETS, "method": rows[0]["method"], "pairs": sum(r["pairs"] for r in rows)}
    row |= {name: _mean(np.array([r[name] for r in rows], float)) for name in (*METRICS, "median_epe")}
    return row | {"geo_epe": _geometric_mean(np.array([r["geo_epe"] for r in rows]))}


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return round(float(known.mean()), 3) if len(known) else None


def _geometric_mean(values: np.ndarray) -> float:
    """0 where one value is."""
    with np.errstate(divide="ignore"):
        return round(float(np.exp(np.log(values).mean())), 3)


class QualityFigures(NamedTuple):
    """error: geometric mean over the benchmarks, each data set counting alike, px; cost: over DIS medium."""

    error: float
    cost: float


def qualities_of(rows: Sequence[Row]) -> dict[str, QualityFigures]:
    """Return error and cost of each quality from the rows of `evaluate_flow`; empty for older ones."""
    of_sets = [row for row in rows if row["dataset"] == SETS and row.get("ms")]
    by_method: dict[str, list[Row]] = {}
    for row in of_sets:
        by_method.setdefault(row["method"], []).append(row)

    def mean_ms(method: str) -> float:
        return float(np.mean([row["ms"] for row in by_method[method]]))

    return {
        method.removeprefix("mcjepa "): QualityFigures(
            _geometric_mean(np.array([row["geo_epe"] for row in found])),
            mean_ms(method) / mean_ms("DIS medium"),
        )
        for method, found in by_method.items()
        if method.startswith("mcjepa ")
    }


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
    """The result of `evaluate_flow` as Markdown: a table of errors and times, and one by motion and sight."""
    where = {"benchmark": "benchmark", "data set": "dataset", "method": "method"}
    columns = where | {
        "pairs": "pairs",
        "mean EPE, px": "epe",
        "median EPE, px": "median_epe",
        "geometric mean, px": "geo_epe",
        "Fl-all, %": "fl_all",
        "over 1 px, %": "px1",
        "over 3 px, %": "px3",
        "ms a pair": "ms",
    }
    parts = {
        "under 10 px": "epe_slow",
        "10 to 40 px": "epe_medium",
        "over 40 px": "epe_fast",
        "not occluded": "epe_noc",
        "occluded": "epe_occ",
    }
    known = {title: key for title, key in parts.items() if any(row.get(key) is not None for row in rows)}
    if not known:  # results of an earlier version
        return markdown_table(columns, rows)
    over_all = [row for row in rows if row["dataset"] in (PAIRS, SETS)]
    by_part = markdown_table(where | known, over_all)
    return (
        f"{markdown_table(columns, rows)}\n\nMean end-point error, px, by motion and visibility:\n\n{by_part}"
    )
