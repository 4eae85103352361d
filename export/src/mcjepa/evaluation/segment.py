"""Segmentation by a linear classifier on frozen dense features, of the cells of stride 8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from sklearn.pipeline import Pipeline
from tqdm import tqdm

from mcjepa.data.masks import IGNORE, LabelledImage, open_labelled
from mcjepa.evaluation.embeddings import Embedded
from mcjepa.evaluation.linear import choose_l2, probe
from mcjepa.evaluation.panels import error_colours, mask_colours, write_panels
from mcjepa.predictors import OnnxModels, TorchModel

CELLS = 100_000  # that the classifier is trained on, drawn evenly from all training images
PICTURES = 3  # of the best images, and of the worst

Row = dict[str, Any]


def evaluate_segmentation(
    models: OnnxModels | TorchModel,
    train: tuple[Path, Path],
    test: tuple[Path, Path],
    pictures: Path | None = None,
) -> Row:
    """Mean intersection over union (per cent) of a linear head, and of answering the most frequent class.

    train, test: a folder (or tar) of images and a folder of masks, see `open_labelled`; masks hold class
    numbers, and 255 where there is none to judge. The mean is over the classes that occur in the true test
    masks; `iou` holds each. Images are taken at their own size; the head's scores are interpolated to it.
    pictures: a folder for pictures of the images with the largest and the smallest share of right pixels.
    """
    train_images, test_images = open_labelled(*train), open_labelled(*test)
    cells, images = _training_cells(models, train_images)
    l2, _ = choose_l2(cells, groups=images)
    head = probe(len(cells.emb), l2).fit(*cells)
    counts = [_count(models, head, item) for item in tqdm(test_images, unit="image", desc="test")]
    if pictures is not None:
        _draw_extremes(models, head, test_images, counts, pictures)
    confusion = np.sum(counts, axis=0)
    common = np.bincount(cells.labels).argmax()
    guess = np.zeros_like(confusion)
    guess[:, common] = confusion.sum(axis=1)
    return {
        "train_images": len(train_images),
        "test_images": len(test_images),
        "classes": int((confusion.sum(axis=1) > 0).sum()),
        "l2": l2,
        "miou": _mean_iou(confusion),
        "miou_most_frequent": _mean_iou(guess),
        "pixel_accuracy": round(100 * float(np.trace(confusion) / confusion.sum()), 2),
        "iou": {str(k): round(100 * float(v), 2) for k, v in enumerate(iou(confusion)) if not np.isnan(v)},
    }


def iou(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union, 0 to 1, of each class; NaN for one that is not in the truth.

    confusion (K, K): pixels by true class (row) and predicted class (column).
    """
    hits, true, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.where(true > 0, hits / (true + predicted - hits), np.nan)


def _mean_iou(confusion: np.ndarray) -> float:
    return round(100 * float(np.nanmean(iou(confusion))), 2)


def _training_cells(
    models: OnnxModels | TorchModel, items: Sequence[LabelledImage]
) -> tuple[Embedded, np.ndarray]:
    """Features and classes of up to CELLS cells, and the number of the image that each comes from."""
    rng = np.random.default_rng(0)
    share = max(1, CELLS // len(items))
    found = [_cells(models, item, share, rng) for item in tqdm(items, unit="image", desc="train")]
    images = np.repeat(np.arange(len(found)), [len(part.labels) for part in found])
    if not len(images):
        raise ValueError(f"{items[0].mask.parent}: no training mask names a class")
    return Embedded(*(np.concatenate(parts) for parts in zip(*found, strict=True))), images


def _cells(
    models: OnnxModels | TorchModel, item: LabelledImage, share: int, rng: np.random.Generator
) -> Embedded:
    """Cells of one image with the class at their middle, `share` of them at most."""
    img, mask = item.read()
    feats = models.features(img)  # (C, h, w)
    ys, xs = (
        np.minimum(np.arange(n) * 8 + 4, size - 1)
        for n, size in zip(feats.shape[1:], mask.shape, strict=True)
    )
    labels = mask[np.ix_(ys, xs)].ravel()
    known = np.flatnonzero(labels != IGNORE)
    picks = rng.permutation(known)[:share]
    return Embedded(feats.reshape(len(feats), -1).T[picks], labels[picks].astype(np.int64))


def segment(models: OnnxModels | TorchModel, head: Pipeline, img: np.ndarray) -> np.ndarray:
    """The class of every pixel, uint8 (H, W)."""
    feats = models.features(img)
    c, h, w = feats.shape
    scores = np.atleast_2d(head.decision_function(feats.reshape(c, -1).T).T)  # (K, cells)
    if len(scores) == 1:  # scikit-learn has one score for two classes
        scores = np.concatenate([-scores, scores])
    planes = [_to_pixels(plane.reshape(h, w).astype(np.float32), img.shape) for plane in scores]
    return head.classes_[np.argmax(planes, axis=0)].astype(np.uint8)


def _to_pixels(plane: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Scores of the cells (h, w) as scores of the pixels (H, W); the last cells may reach over the edge."""
    whole = cv2.resize(plane, (8 * plane.shape[1], 8 * plane.shape[0]), interpolation=cv2.INTER_LINEAR)
    return whole[: shape[0], : shape[1]]


def _count(models: OnnxModels | TorchModel, head: Pipeline, item: LabelledImage) -> np.ndarray:
    """The confusion (255, 255) of one image."""
    img, mask = item.read()
    known = mask != IGNORE
    predicted = segment(models, head, img)[known].astype(np.int64)
    pairs = np.bincount(mask[known] * np.int64(IGNORE) + predicted, minlength=IGNORE**2)
    return pairs.reshape(IGNORE, IGNORE)


def _draw_extremes(
    models: OnnxModels | TorchModel,
    head: Pipeline,
    items: Sequence[LabelledImage],
    counts: Sequence[np.ndarray],
    folder: Path,
) -> None:
    order = np.argsort([np.trace(c) / max(c.sum(), 1) for c in counts])
    for name, indices in (("best", order[::-1]), ("worst", order)):
        for rank, i in enumerate(indices[:PICTURES], start=1):
            _draw(models, head, items[i], folder / f"segment-{name}-{rank}.png")


def _draw(models: OnnxModels | TorchModel, head: Pipeline, item: LabelledImage, path: Path) -> None:
    img, mask = item.read()
    predicted = segment(models, head, img)
    wrong = error_colours((predicted != mask).astype(np.float32), mask != IGNORE, 1.0)
    panels = [
        (item.image.name, img),
        ("true classes", mask_colours(img, mask)),
        ("predicted classes", mask_colours(img, predicted)),
        ("wrong pixels; grey: not judged", wrong),
    ]
    write_panels(path, panels)


def segmentation_table(row: Row) -> str:
    """The result of `evaluate_segmentation` as a Markdown table."""
    head = (
        "| images (train / test) | classes | mIoU, % | mIoU of the most frequent class, % | right pixels, % |"
    )
    sizes = f"{row['train_images']} / {row['test_images']}"
    cells = (sizes, row["classes"], row["miou"], row["miou_most_frequent"], row["pixel_accuracy"])
    return head + "\n|---|---|---|---|---|\n| " + " | ".join(map(str, cells)) + " |"
