"""The folder of a run: one trainer at a time; after a resume no step has two rows of metrics."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mcjepa import train
from mcjepa.run_folder import LOCK, METRICS, RunLockedError, keep_metrics, locked, metrics_row

# Holds the lock of a run folder until it is killed.
HOLDER = """
import sys
from pathlib import Path
from mcjepa.run_folder import locked

with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def rows(*steps: int) -> str:
    return "".join(json.dumps({"step": step, "loss": 0.5}) + "\n" for step in steps)


def test_a_second_trainer_is_refused_until_the_first_is_done(tmp_path):
    run = tmp_path / "runs" / "nano"
    with locked(run), pytest.raises(RunLockedError, match=r"nano is in use: another process"), locked(run):
        pytest.fail("two at once")
    with locked(run):
        assert (run / LOCK).is_file()


def test_a_lock_ends_with_an_error_in_the_run(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        _ = 1 / 0
    with locked(tmp_path):
        pass


def test_a_lock_holds_between_processes_and_ends_with_a_kill(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunLockedError), locked(tmp_path):
            pytest.fail("two at once")
        holder.kill()
    with locked(tmp_path):
        pass


def test_training_is_refused_where_another_trains(small_config, tmp_path):
    with locked(tmp_path), pytest.raises(RunLockedError):
        train.train(small_config, tmp_path, device="cpu")
    assert [p.name for p in tmp_path.iterdir()] == [LOCK]


@pytest.mark.parametrize(
    ("before", "step", "after"),
    [
        (rows(1, 2, 3, 4), 2, rows(1, 2)),
        (rows(1, 2, 3), 3, rows(1, 2, 3)),
        (rows(1, 2), 0, ""),
        (rows(10, 20) + '{"step": 3', 40, rows(10, 20)),  # cut short by a kill
        (rows(10, 20) + '{"step": 30}', 40, rows(10, 20) + '{"step": 30}\n'),  # all but its end of line
        (rows(10) + "\0\0\0\n5\n{}\n" + rows(20), 40, rows(10, 20)),
        ("", 5, ""),
    ],
)
def test_rows_up_to_the_resumed_step_are_kept(tmp_path: Path, before, step, after):
    (tmp_path / METRICS).write_text(before)
    keep_metrics(tmp_path, step)
    assert (tmp_path / METRICS).read_text() == after
    assert [p.name for p in tmp_path.iterdir()] == [METRICS]


def test_a_run_without_metrics_has_none_to_drop(tmp_path):
    keep_metrics(tmp_path, 5)
    assert list(tmp_path.iterdir()) == []


def test_small_and_large_values_keep_six_digits():
    row = metrics_row({"step": 12345678, "a": 1.23456789e-7, "b": 0.1, "c": 9876543.21})
    assert row == '{"step": 12345678, "a": 1.23457e-07, "b": 0.1, "c": 9876540.0}\n'
