"""Evaluation: flow against ground truth beside two baselines, and embeddings by nearest neighbours.

Every result is a plain dictionary, ready for JSON, that names the weights it belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mcjepa import metrics
from mcjepa.data.benchmarks import FlowSample, open_benchmark
from mcjepa.data.images import ImageSet, open_images
from mcjepa.knn import knn_top1
from mcjepa.predictors import FlowPredictor, OnnxModels, TorchModel, dis_flow, pad_to_stride, zero_flow

K = 20  # neighbours
BATCH = 64  # images
AGREEMENT_FRAMES = 16

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


def evaluate_knn(models: OnnxModels | TorchModel, train: Sequence[Path], test: Sequence[Path]) -> Row:
    """Top-1 accuracy (per cent) of weighted kNN, k = 20, cosine, and the rank of the embeddings.

    train, test: labelled image folders or tars. rank: participation ratio of the covariance's eigenvalues,
    (sum l)^2 / sum l^2, between 1 and the dimension; low values tell of collapse.
    """
    train_set = open_images(train)
    test_set = open_images(test, classes=train_set.classes)
    if train_set.labels is None or test_set.labels is None:
        raise ValueError("kNN needs labelled images: folders named after their class")
    train_emb, test_emb = embed_all(models, train_set, "train"), embed_all(models, test_set, "test")
    return {
        "train_images": len(train_set),
        "test_images": len(test_set),
        "classes": len(train_set.classes),
        "k": K,
        "knn_top1": round(knn_top1(train_emb, train_set.labels, test_emb, test_set.labels, k=K), 2),
        "chance": round(100 / len(train_set.classes), 2),
        "dimension": train_emb.shape[1],
        "rank": round(participation_ratio(train_emb), 2),
    }


def embed_all(models: OnnxModels | TorchModel, images: ImageSet, what: str) -> np.ndarray:
    """The embeddings (N, D) of a whole image set."""
    starts = tqdm(range(0, len(images), BATCH), unit="batch", desc=what)
    return np.concatenate([models.embed([images[i] for i in _span(s, len(images))]) for s in starts])


def participation_ratio(emb: np.ndarray) -> float:
    """(sum l)^2 / sum l^2 over the eigenvalues l of the covariance of embeddings (N, D)."""
    eigenvalues = np.linalg.eigvalsh(np.cov(emb.T.astype(np.float64)))
    return float(eigenvalues.sum() ** 2 / np.square(eigenvalues).sum())


def evaluate_agreement(models: OnnxModels, frames: Sequence[np.ndarray]) -> Row:
    """Cosine between a frame's embedding from `mcjepa_embed` and the one that comes with a flow.

    frames: consecutive frames (H, W, 3) of one size. The searches that mix the two need it close to 1.
    """
    clip = np.stack([pad_to_stride(frame) for frame in frames])[None]
    with_flow = models.run("mcjepa_flow", clip, "embedding")[0]
    alone = models.embed(frames)
    norms = np.linalg.norm(with_flow, axis=1) * np.linalg.norm(alone, axis=1)
    cosine = (with_flow * alone).sum(1) / norms
    return {
        "frames": len(frames),
        "mean": round(float(cosine.mean()), 4),
        "min": round(float(cosine.min()), 4),
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


def knn_table(row: Row) -> str:
    """The result of `evaluate_knn` as a Markdown table."""
    head = "| images (train / test) | classes | kNN top-1, % | chance, % | rank of the embedding |"
    sizes = f"{row['train_images']} / {row['test_images']}"
    rank = f"{row['rank']} of {row['dimension']}"
    cells = (sizes, row["classes"], row["knn_top1"], row["chance"], rank)
    return head + "\n|---|---|---|---|---|\n| " + " | ".join(map(str, cells)) + " |"


def _span(start: int, length: int) -> range:
    return range(start, min(start + BATCH, length))
