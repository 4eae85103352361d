"""Linear probe: how far a linear classifier on frozen embeddings tells the classes apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from mcjepa.evaluation.embeddings import Embedded, accuracy_table, describe, embed_sets
from mcjepa.predictors import OnnxModels, TorchModel

FOLDS = 5  # one part of so many of the training set is held out to choose the regularisation
L2 = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # tried from strong to weak, until the next is no better
MAX_ITER = 1000


def evaluate_linear(
    models: OnnxModels | TorchModel, train: Sequence[Path], test: Sequence[Path]
) -> dict[str, Any]:
    """Top-1 accuracy (per cent) of a linear probe, and the rank of the embeddings.

    train, test: labelled image folders or tars. The test set is used once, at the end.
    """
    train_set, test_set = embed_sets(models, train, test)
    l2, held_out = choose_l2(train_set)
    accuracy = 100.0 * probe(len(train_set.emb), l2).fit(*train_set).score(*test_set)
    chosen = {"l2": l2, "held_out_top1": round(held_out, 2), "linear_top1": round(accuracy, 2)}
    return describe(train_set, test_set) | chosen


def probe(images: int, l2: float) -> Pipeline:
    """Standardised embeddings -> multinomial logistic regression: mean cross-entropy + l2 / 2 |W|^2.

    images: how many it will be fitted to; scikit-learn weighs the sum over them, not their mean.
    """
    regression = LogisticRegression(C=1.0 / (l2 * images), max_iter=MAX_ITER, warm_start=True)
    return make_pipeline(StandardScaler(), regression)


def choose_l2(train: Embedded, groups: np.ndarray | None = None) -> tuple[float, float]:
    """The l2 that is best on a held-out part of the training set, and the accuracy there, per cent.

    Goes from strong to weak and ends when that no longer helps. groups: numbers (N,) of what must not be
    torn apart, such as the image that a cell is of. Raises ValueError where no class has FOLDS members, or
    where there are fewer than FOLDS groups.
    """
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    fit, held = next(kind(FOLDS, shuffle=True, random_state=0).split(train.emb, train.labels, groups))
    model = probe(len(fit), L2[0])
    scores: list[float] = []
    for l2 in tqdm(L2, unit="fit", desc="probe"):
        model[-1].set_params(C=1.0 / (l2 * len(fit)))  # goes on from the weights of the stronger one
        model.fit(train.emb[fit], train.labels[fit])
        scores.append(100.0 * float(model.score(train.emb[held], train.labels[held])))
        if scores[-1] < max(scores):
            break
    best = int(np.argmax(scores))
    return L2[best], scores[best]


def linear_table(row: dict[str, Any]) -> str:
    """The result of `evaluate_linear` as a Markdown table."""
    return accuracy_table(row, "linear probe top-1", row["linear_top1"])
