"""Weighted k-nearest-neighbour classification, which judges embeddings without training anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcjepa.evaluation.embeddings import accuracy_table, describe, embed_sets
from mcjepa.predictors import OnnxModels, TorchModel

K = 20  # neighbours
CHUNK = 256  # queries at a time; bounds the similarity matrix


def evaluate_knn(
    models: OnnxModels | TorchModel, train: Sequence[Path], test: Sequence[Path]
) -> dict[str, Any]:
    """Top-1 accuracy (per cent) of weighted kNN, k = 20, cosine, and the rank of the embeddings.

    train, test: labelled image folders or tars.
    """
    train_set, test_set = embed_sets(models, train, test)
    accuracy = knn_top1(*train_set, *test_set, k=K)
    return describe(train_set, test_set) | {"k": K, "knn_top1": round(accuracy, 2)}


def knn_table(row: dict[str, Any]) -> str:
    """The result of `evaluate_knn` as a Markdown table."""
    return accuracy_table(row, "kNN top-1", row["knn_top1"])


def knn_top1(
    train_emb: np.ndarray,
    train_labels: np.ndarray,
    test_emb: np.ndarray,
    test_labels: np.ndarray,
    k: int = K,
    temperature: float = 0.07,
) -> float:
    """Top-1 accuracy, per cent, of a vote among the k nearest training embeddings.

    Each neighbour of cosine similarity s votes for its class with weight exp(s / temperature), as in Wu et
    al. 2018, section 3.4. Embeddings are (N, D) and need not be normalised; labels are integers (N,) from 0.
    Raises ValueError on shapes that do not fit, embeddings that are not finite, or fewer than k training
    embeddings.
    """
    _check(train_emb, train_labels, "train")
    _check(test_emb, test_labels, "test")
    if not 1 <= k <= len(train_emb):
        raise ValueError(f"k is {k}, allowed are 1 to {len(train_emb)}, the number of training embeddings")
    train, test = _normalised(train_emb), _normalised(test_emb)
    predicted = [
        _vote(test[start : start + CHUNK] @ train.T, train_labels, k, temperature)
        for start in range(0, len(test), CHUNK)
    ]
    return 100.0 * float((np.concatenate(predicted) == test_labels).mean())


def _vote(similarity: np.ndarray, labels: np.ndarray, k: int, temperature: float) -> np.ndarray:
    """Winning class (B,) of similarities (B, N) to training embeddings of `labels` (N,)."""
    near = np.argpartition(-similarity, k - 1, axis=1)[:, :k]  # (B, k)
    weight = np.exp(np.take_along_axis(similarity, near, axis=1) / temperature)
    votes = np.zeros((len(similarity), int(labels.max()) + 1))
    np.add.at(votes, (np.arange(len(similarity))[:, None], labels[near]), weight)
    return votes.argmax(axis=1)


def _normalised(emb: np.ndarray) -> np.ndarray:
    emb = emb.astype(np.float32)
    return emb / np.maximum(np.linalg.norm(emb, axis=1, keepdims=True), np.float32(1e-12))


def _check(emb: np.ndarray, labels: np.ndarray, which: str) -> None:
    if emb.ndim != 2 or labels.shape != (len(emb),) or len(emb) == 0:
        raise ValueError(
            f"{which}: embeddings {emb.shape} and labels {labels.shape}, expected (N, D) and (N,)"
        )
    if not np.isfinite(emb).all():
        raise ValueError(f"{which}: embeddings hold values that are not finite")
