"""Embeddings of labelled images, which kNN and the linear probe classify, and of video frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from mcjepa.data.images import ImageSet, open_images
from mcjepa.pictures import pad_to_stride
from mcjepa.predictors import OnnxModels, TorchModel

BATCH = 64  # images
AGREEMENT_FRAMES = 16


class Embedded(NamedTuple):
    """The embeddings (N, D) of a labelled set, not normalised, and its labels, integers (N,) from 0."""

    emb: np.ndarray
    labels: np.ndarray


def embed_sets(
    models: OnnxModels | TorchModel, train: Sequence[Path], test: Sequence[Path]
) -> tuple[Embedded, Embedded]:
    """The embeddings of two labelled sets of images (folders or tars), whose labels are numbered alike.

    Raises ValueError for images without labels, and for a class of the test set that is not in the other.
    """
    train_set = open_images(train)
    test_set = open_images(test, classes=train_set.classes)
    if train_set.labels is None or test_set.labels is None:
        raise ValueError("labelled images are needed: folders named after their class")
    train_emb, test_emb = embed_all(models, train_set, "train"), embed_all(models, test_set, "test")
    return Embedded(train_emb, train_set.labels), Embedded(test_emb, test_set.labels)


def embed_all(models: OnnxModels | TorchModel, images: ImageSet, what: str) -> np.ndarray:
    """The embeddings (N, D) of a whole image set."""
    starts = tqdm(range(0, len(images), BATCH), unit="batch", desc=what)
    return np.concatenate([models.embed([images[i] for i in _span(s, len(images))]) for s in starts])


def describe(train: Embedded, test: Embedded) -> dict[str, Any]:
    """What every result on embeddings states: the sets' sizes, chance (per cent), dimension and rank.

    rank: `participation_ratio` of the training embeddings; low values tell of collapse.
    """
    classes = int(train.labels.max()) + 1
    return {
        "train_images": len(train.emb),
        "test_images": len(test.emb),
        "classes": classes,
        "chance": round(100 / classes, 2),
        "dimension": train.emb.shape[1],
        "rank": round(participation_ratio(train.emb), 2),
    }


def accuracy_table(row: dict[str, Any], name: str, value: float) -> str:
    """A Markdown table of one accuracy, called `name`, and what `describe` says."""
    head = f"| images (train / test) | classes | {name}, % | chance, % | rank of the embedding |"
    sizes = f"{row['train_images']} / {row['test_images']}"
    rank = f"{row['rank']} of {row['dimension']}"
    cells = (sizes, row["classes"], value, row["chance"], rank)
    return head + "\n|---|---|---|---|---|\n| " + " | ".join(map(str, cells)) + " |"


def participation_ratio(emb: np.ndarray) -> float:
    """(sum l)^2 / sum l^2 over the eigenvalues l of the covariance of embeddings (N, D), 1 to D."""
    eigenvalues = np.linalg.eigvalsh(np.cov(emb.T.astype(np.float64)))
    return float(eigenvalues.sum() ** 2 / np.square(eigenvalues).sum())


def evaluate_agreement(models: OnnxModels, frames: Sequence[np.ndarray]) -> dict[str, Any]:
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


def agreement_text(row: dict[str, Any]) -> str:
    """The result of `evaluate_agreement` as a sentence."""
    return (
        f"Cosine between a frame's embedding from `mcjepa_embed` and the one that comes with its flow, over "
        f"{row['frames']} video frames: mean {row['mean']}, least {row['min']}."
    )


def _span(start: int, length: int) -> range:
    return range(start, min(start + BATCH, length))
