"""Weighted kNN against a naive loop, and what it must not depend on."""

import math
from collections import defaultdict

import numpy as np
import pytest
from mcjepa.evaluation import knn
from mcjepa.evaluation.knn import knn_top1


def problem(seed: int = 0, test_size: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Five blurred classes: (train_emb, train_labels, test_emb, test_labels)."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 1, (5, 8))
    train_labels, test_labels = rng.integers(0, 5, 200), rng.integers(0, 5, test_size)
    train_emb = centres[train_labels] + rng.normal(0, 1.5, (200, 8))
    test_emb = centres[test_labels] + rng.normal(0, 1.5, (test_size, 8))
    return train_emb, train_labels, test_emb, test_labels


def naive(train_emb, train_labels, test_emb, test_labels, k, temperature):
    right = 0
    for query, true in zip(test_emb, test_labels, strict=True):
        cosines = [
            (
                sum(a * b for a, b in zip(query, emb, strict=True)) / (math.hypot(*query) * math.hypot(*emb)),
                label,
            )
            for emb, label in zip(train_emb, train_labels, strict=True)
        ]
        votes: defaultdict[int, float] = defaultdict(float)
        for cosine, label in sorted(cosines, reverse=True)[:k]:
            votes[int(label)] += math.exp(cosine / temperature)
        right += max(votes, key=votes.__getitem__) == true
    return 100 * right / len(test_labels)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0), (200, 0.07)])
def test_agrees_with_a_naive_loop(k, temperature):
    case = problem()
    want = naive(*case, k, temperature)
    assert knn_top1(*case, k=k, temperature=temperature) == pytest.approx(want)
    assert 20 < want < 100


def test_defaults_are_20_neighbours_at_temperature_0_07():
    case = problem(seed=2, test_size=300)
    want = knn_top1(*case, k=20, temperature=0.07)
    assert want not in (knn_top1(*case, k=20, temperature=0.5), knn_top1(*case, k=10, temperature=0.07))
    assert knn_top1(*case) == want


def test_neither_lengths_nor_order_nor_chunks_matter(monkeypatch):
    train_emb, train_labels, test_emb, test_labels = problem()
    want = knn_top1(train_emb, train_labels, test_emb, test_labels)
    rng = np.random.default_rng(1)
    order = rng.permutation(len(train_emb))
    scaled = train_emb * rng.uniform(0.1, 10, (len(train_emb), 1))
    assert knn_top1(scaled[order], train_labels[order], test_emb * 7, test_labels) == want
    monkeypatch.setattr(knn, "CHUNK", 7)
    assert knn_top1(train_emb, train_labels, test_emb, test_labels) == want


def test_a_class_the_training_set_lacks_counts_as_wrong():
    train_emb, train_labels, test_emb, _ = problem()
    assert knn_top1(train_emb, train_labels, test_emb, np.full(len(test_emb), 99)) == 0


def test_input_that_does_not_fit_is_an_error():
    train_emb, train_labels, test_emb, test_labels = problem()
    with pytest.raises(ValueError, match="k is 201, allowed are 1 to 200"):
        knn_top1(train_emb, train_labels, test_emb, test_labels, k=201)
    with pytest.raises(ValueError, match="test: embeddings"):
        knn_top1(train_emb, train_labels, test_emb, test_labels[:-1])
    with pytest.raises(ValueError, match="train: embeddings hold values that are not finite"):
        knn_top1(train_emb * np.nan, train_labels, test_emb, test_labels)
