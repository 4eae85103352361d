"""Embeddings judged by kNN and by a linear probe, on images of known classes."""

import cv2
import numpy as np
import pytest
from mcjepa import cli
from mcjepa.evaluation import linear
from mcjepa.evaluation.embeddings import Embedded, participation_ratio
from mcjepa.evaluation.knn import evaluate_knn, knn_table
from mcjepa.evaluation.linear import choose_l2, evaluate_linear, linear_table, probe


class MeanColour:
    """Embeds an image as its mean colour."""

    def embed(self, images):
        return np.stack([img.reshape(-1, 3).mean(0) for img in images]).astype(np.float32)


@pytest.fixture
def colours(tmp_path):
    """Folders train and test of twelve red and twelve blue images each."""
    rng = np.random.default_rng(1)
    for split in ("train", "test"):
        for name, colour in (("blue", (200, 20, 20)), ("red", (20, 20, 200))):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(12):
                image = np.clip(np.array(colour) + rng.integers(-20, 20, (16, 16, 3)), 0, 255)
                cv2.imwrite(str(tmp_path / split / name / f"{i}.png"), image.astype(np.uint8))
    return tmp_path


@pytest.mark.parametrize(
    ("evaluate", "table", "top1"),
    [(evaluate_knn, knn_table, "knn_top1"), (evaluate_linear, linear_table, "linear_top1")],
)
def test_colours_are_told_apart_and_labels_are_needed(colours, evaluate, table, top1):
    row = evaluate(MeanColour(), [colours / "train"], [colours / "test"])
    assert row[top1] == 100.0
    assert (row["classes"], row["chance"], row["train_images"]) == (2, 50.0, 24)
    assert "| 24 / 24 | 2 | 100.0 | 50.0 |" in table(row)
    with pytest.raises(ValueError, match="labelled"):
        evaluate(MeanColour(), [colours / "train" / "red"], [colours / "test"])


def noisy(images: int, seed: int) -> Embedded:
    """Four classes in 60 dimensions, of which three tell them apart, and not well; the others are noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % 4
    emb = rng.normal(size=(images, 60))
    emb[:, :3] += np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 2]])[labels]
    emb *= np.geomspace(0.01, 100, 60)  # the scale of a dimension says nothing
    return Embedded(emb, labels)


def test_the_regularisation_is_chosen_without_the_test_set_and_is_about_as_good_as_any():
    train, test = noisy(120, 0), noisy(4000, 1)
    l2, held_out = choose_l2(train)
    accuracy = {v: 100 * probe(len(train.emb), v).fit(*train).score(*test) for v in linear.L2}
    assert accuracy[l2] > max(accuracy.values()) - 3
    assert accuracy[l2] > accuracy[linear.L2[-1]] + 1  # which overfits: there is something to choose
    assert held_out == pytest.approx(accuracy[l2], abs=20)


def test_the_probe_minimises_the_loss_it_states():
    """At the minimum the gradient of mean cross-entropy + l2 / 2 |W|^2 is zero."""
    train, l2 = noisy(200, 2), 0.03
    model = probe(200, l2).fit(*train)
    x = model[0].transform(train.emb)
    target = np.eye(4)[train.labels]
    gradient = (model.predict_proba(train.emb) - target).T @ x / 200 + l2 * model[-1].coef_
    assert np.abs(gradient).max() < 1e-3
    assert np.abs(l2 * model[-1].coef_).max() > 1e-2


def test_a_class_without_enough_images_is_an_error():
    with pytest.raises(ValueError, match="n_splits=5"):
        choose_l2(Embedded(np.random.default_rng(0).normal(size=(8, 3)), np.arange(8) % 4))


def test_participation_ratio_counts_equal_directions():
    rng = np.random.default_rng(2)
    emb = rng.normal(size=(20000, 8)) * np.array([1, 1, 1, 0, 0, 0, 0, 0])
    assert participation_ratio(emb) == pytest.approx(3.0, rel=0.01)


def test_the_command_prints_a_table_and_writes_json(colours, monkeypatch, capsys):
    monkeypatch.setattr("mcjepa.evaluate_cli._models", lambda args: MeanColour())
    output = colours / "linear.json"
    sets = ["--train", str(colours / "train"), "--test", str(colours / "test")]
    arguments = ["evaluate", "linear", *sets, "--checkpoint", "none", "--output", str(output)]
    assert cli.main(arguments) == 0
    assert "| 24 / 24 | 2 | 100.0 |" in capsys.readouterr().out
    assert '"command": "mcjepa evaluate linear --train train --test test"' in output.read_text()
