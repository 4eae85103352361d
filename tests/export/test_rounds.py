"""Rounds of training: what is kept, when it ends, and that it goes on where it was stopped."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from mcjepa import checkpoint, rounds
from mcjepa.model import MCJEPA
from mcjepa.quality import FAST
from mcjepa.rounds import Judge, train_in_rounds

MINUTES = 10.0


@pytest.fixture
def config(small_config):
    return replace(small_config, train=replace(small_config.train, minutes=MINUTES, seed=5))


@pytest.fixture
def trained(monkeypatch, config):
    """(seed, init) of rounds that train nothing, and `minutes[seed]` after which one is stopped."""
    calls, minutes = [], {}

    def train(config, run, init, device):
        calls.append((config.train.seed, str(init)))
        spent = minutes.get(config.train.seed, MINUTES)
        return checkpoint.save(run, MCJEPA(config.model), config, 1, spent, {})

    monkeypatch.setattr(rounds, "train", train)
    return calls, minutes


def measured(errors, fl_all=None, knn=None):
    """Figures one after the other, for each call."""
    rest = zip(errors, fl_all or [10.0] * len(errors), knn or [None] * len(errors), strict=True)
    return lambda path: dict(zip(("error", "fl_all", "knn"), next(rest), strict=True))


def kept(folder):
    return [json.loads(line)["kept"] for line in (folder / rounds.ROWS).read_text().splitlines()]


def test_each_round_starts_from_the_best_with_a_seed_of_its_own(config, trained, tmp_path):
    best = train_in_rounds(config, tmp_path, tmp_path / "init", 0.5, measured([2.0, 2.1, 1.8, 1.7]))
    calls, _ = trained
    first, second = (tmp_path / f"round-0{n}/step-00000001" for n in (2, 3))
    assert calls == [(6, str(tmp_path / "init")), (7, str(tmp_path / "init")), (8, str(first))]
    assert kept(tmp_path) == [True, False, True, True]
    assert best == second
    assert "| 3 | 10.0 | 1.7 |" in (tmp_path / rounds.TABLE).read_text()


@pytest.mark.parametrize(
    ("fl_all", "knn"), [([10.0, 10.1], [20.0, 20.0]), ([10.0, 9.0], [20.0, 18.9])], ids=["Fl-all", "kNN"]
)
def test_less_error_is_not_bought_with_outliers_or_content(config, trained, tmp_path, fl_all, knn):
    train_in_rounds(config, tmp_path, tmp_path / "init", 1 / 6, measured([2.0, 1.5], fl_all, knn))
    assert kept(tmp_path) == [True, False]


def test_it_ends_when_three_rounds_together_gain_too_little(config, trained, tmp_path):
    errors = [2.0, 1.5, 1.499, 1.498, 1.497]
    train_in_rounds(config, tmp_path, tmp_path / "init", 100, measured(errors))
    assert len(kept(tmp_path)) == len(errors)


def test_a_round_that_was_stopped_is_gone_on_with(config, trained, tmp_path):
    calls, minutes = trained
    minutes[6] = 4.0  # SIGTERM
    best = train_in_rounds(config, tmp_path, tmp_path / "init", 1 / 6, measured([2.0]))
    assert (best, kept(tmp_path)) == (tmp_path / "init", [True])
    del minutes[6]
    train_in_rounds(config, tmp_path, tmp_path / "init", 1 / 6, measured([1.0]))
    assert [seed for seed, _ in calls] == [6, 6]  # the start is not measured again
    assert kept(tmp_path) == [True, True]


def test_the_judge_measures_one_quality_and_the_content(config, tmp_path, monkeypatch):
    path = checkpoint.save(tmp_path, MCJEPA(config.model), config, 1, 1.0, {})
    rows = [
        {"dataset": rounds.SETS, "method": method, "geo_epe": 2.0, "fl_all": 7.0, "ms": 1.0}
        for method in ("DIS medium", "mcjepa fast")
    ]
    seen = []
    monkeypatch.setattr(rounds, "evaluate_flow", lambda models, _: seen.append(models.qualities) or rows)
    monkeypatch.setattr(rounds, "evaluate_knn", lambda *_: {"knn_top1": 21.5})
    assert Judge([tmp_path], FAST).measure(path) == {"error": 2.0, "fl_all": 7.0, "knn": None}
    assert Judge([tmp_path], FAST, [tmp_path], [tmp_path]).measure(path)["knn"] == 21.5
    assert seen == [(FAST,), (FAST,)]
