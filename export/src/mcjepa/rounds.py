"""Train in rounds for as long as it gains: each round is a run of its own that starts from the best weights.

    FOLDER/round-01/      the run of a round
           rounds.jsonl   a row a round, the weights it started from first (round 0)
           rounds.md      the same as a table

A round's learning rate falls to zero, so that its end can be compared with the others. Stopped at any moment
and called again with the same arguments, it goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mcjepa import checkpoint
from mcjepa.config import Config
from mcjepa.evaluation.flow import SETS, evaluate_flow, qualities_of
from mcjepa.evaluation.knn import evaluate_knn
from mcjepa.evaluation.tables import markdown_table
from mcjepa.files import write_text
from mcjepa.predictors import TorchModel
from mcjepa.quality import Quality
from mcjepa.train import train

GAIN = 0.01  # of the error; PATIENCE rounds that gain less together end it
PATIENCE = 3
CONTENT_LOSS = 1.0  # points of kNN accuracy that better flow may cost
ROWS, TABLE = "rounds.jsonl", "rounds.md"
COLUMNS = {
    "round": "round",
    "minutes": "minutes",
    "geometric mean, px": "error",
    "Fl-all, %": "fl_all",
    "kNN, %": "knn",
    "kept": "kept",
}

Row = dict[str, Any]
Measure = Callable[[Path], Row]


@dataclass(frozen=True)
class Judge:
    """What weights are judged by: flow in one quality on benchmarks, and kNN on labelled images if given."""

    benchmarks: Sequence[Path]
    quality: Quality
    knn_train: Sequence[Path] = ()
    knn_test: Sequence[Path] = ()

    def measure(self, path: Path) -> Row:
        """Return error (px, geometric mean, each data set counting alike), fl_all (%) and knn (%) or None."""
        models = TorchModel(checkpoint.load(path).model)
        models.qualities = (self.quality,)
        rows = evaluate_flow(models, self.benchmarks)
        method = f"mcjepa {self.quality.name}"
        outliers = [row["fl_all"] for row in rows if (row["dataset"], row["method"]) == (SETS, method)]
        knn = evaluate_knn(models, self.knn_train, self.knn_test)["knn_top1"] if self.knn_test else None
        return {
            "error": qualities_of(rows)[self.quality.name].error,
            "fl_all": round(sum(outliers) / len(outliers), 3),
            "knn": knn,
        }


def train_in_rounds(
    config: Config,
    folder: Path,
    init: Path,
    hours: float,
    measure: Measure,
    device: str | None = None,
) -> Path:
    """Train rounds of `config.train.minutes` for `hours` in all, and return the best checkpoint.

    A round is kept if its error is smaller than the best, its Fl-all no larger and its kNN accuracy at most
    CONTENT_LOSS points under that of `init`. It ends early when PATIENCE rounds together gained less than
    GAIN, or by SIGTERM or Ctrl-C, which `train` turns into a checkpoint of the round.
    """
    rows = _read(folder)
    if not rows:
        rows = _add(folder, rows, {"path": str(init), "minutes": 0.0, "kept": True} | measure(init))
    while _spent(rows) < 60 * hours and not _flat(rows):
        best = _best(rows)
        number = len(rows)
        settings = replace(config.train, seed=config.train.seed + number)
        last = train(
            replace(config, train=settings), folder / f"round-{number:02d}", Path(best["path"]), device
        )
        minutes = checkpoint.load(last).minutes
        if minutes < config.train.minutes:
            break  # told to stop: the same command goes on here
        row = {"path": str(last), "minutes": round(minutes, 1)} | measure(last)
        rows = _add(folder, rows, row | {"kept": _is_better(row, best, rows[0])})
    return Path(_best(rows)["path"])


def _is_better(row: Row, best: Row, first: Row) -> bool:
    content = first["knn"] is None or row["knn"] >= first["knn"] - CONTENT_LOSS
    return bool(row["error"] < best["error"] and row["fl_all"] <= best["fl_all"] and content)


def _flat(rows: Sequence[Row]) -> bool:
    """Whether the last PATIENCE rounds together gained less than GAIN."""
    before = rows[:-PATIENCE]
    return bool(before) and _best(rows)["error"] > (1 - GAIN) * _best(before)["error"]


def _best(rows: Sequence[Row]) -> Row:
    return [row for row in rows if row["kept"]][-1]


def _spent(rows: Sequence[Row]) -> float:
    return sum(row["minutes"] for row in rows)


def _read(folder: Path) -> list[Row]:
    path = folder / ROWS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _add(folder: Path, rows: Sequence[Row], row: Row) -> list[Row]:
    """Write the rows with one more, and the table."""
    rows = [*rows, {"round": len(rows)} | row]
    write_text(folder / ROWS, "".join(json.dumps(one) + "\n" for one in rows))
    write_text(folder / TABLE, markdown_table(COLUMNS, rows) + "\n")
    return rows
