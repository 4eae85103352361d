"""The folder of a training run: one trainer at a time, and metrics that continue where a run is resumed.

runs/NAME/step-00001200/  checkpoints, see checkpoint.py
          metrics.jsonl   a row every train.log_every steps
          .lock           held while a run trains, by the process itself: a killed one leaves it open
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mcjepa.errors import McjepaError
from mcjepa.files import write_text

METRICS, LOCK = "metrics.jsonl", ".lock"


class RunLockedError(McjepaError):
    """Another process trains in the folder."""


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Make the folder, and hold it against a second trainer. Raises RunLockedError where there is one."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunLockedError(f"{run} is in use: another process trains there") from error
        yield


def keep_metrics(run: Path, step: int) -> None:
    """Drop the rows past `step`, which a resumed run writes again, and a row that a kill cut short."""
    path = run / METRICS
    text = path.read_text(errors="replace") if path.exists() else ""
    kept = "".join(f"{line}\n" for line in text.splitlines() if _is_row_until(line, step))
    if kept != text:
        write_text(path, kept)


def metrics_row(values: Mapping[str, float]) -> str:
    """A line of metrics.jsonl; six significant digits of what is no whole number."""
    short = {k: v if isinstance(v, int) else float(f"{v:.6g}") for k, v in values.items()}
    return json.dumps(short) + "\n"


def _is_row_until(line: str, step: int) -> bool:
    try:
        return bool(json.loads(line)["step"] <= step)
    except (ValueError, TypeError, KeyError):
        return False
