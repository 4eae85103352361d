"""Checkpoints: what was saved comes back bit for bit; what is damaged or does not fit fails loudly."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mcjepa import checkpoint
from mcjepa.checkpoint import SIDECAR, TRAINING, WEIGHTS, CheckpointError
from mcjepa.config import Config
from mcjepa.model import MCJEPA

STATE = {"state": {0: {"exp_avg": torch.arange(6.0).reshape(2, 3)}}, "param_groups": [{"lr": 1e-3}]}


@pytest.fixture
def model(small_config: Config) -> MCJEPA:
    torch.manual_seed(0)
    return MCJEPA(small_config.model).to(memory_format=torch.channels_last)


@pytest.fixture
def saved(model: MCJEPA, small_config: Config, tmp_path: Path) -> Path:
    return checkpoint.save(tmp_path / "run", model, small_config, 7, 1.5, STATE)


def edit_sidecar(saved: Path, change) -> None:
    tree = json.loads((saved / SIDECAR).read_text())
    change(tree)
    (saved / SIDECAR).write_text(json.dumps(tree))


def test_everything_comes_back(saved, model, small_config):
    loaded = checkpoint.load(saved)
    assert (loaded.step, loaded.minutes, loaded.path) == (7, 1.5, saved)
    assert replace(loaded.config, data=small_config.data) == small_config
    before, after = model.state_dict(), loaded.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert loaded.weights_sha256 == checkpoint.sha256(saved / WEIGHTS)
    state = checkpoint.load_training_state(saved)
    assert state["param_groups"] == STATE["param_groups"]
    assert torch.equal(state["state"][0]["exp_avg"], STATE["state"][0]["exp_avg"])


def test_the_weights_alone_can_be_moved_elsewhere(saved, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in (WEIGHTS, SIDECAR):
        (elsewhere / name).write_bytes((saved / name).read_bytes())
    assert checkpoint.load(elsewhere).step == 7
    with pytest.raises(CheckpointError, match=TRAINING):
        checkpoint.load_training_state(elsewhere)


@pytest.mark.parametrize("position", [0, 9, -1])
def test_an_altered_byte_is_noticed(saved, position):
    weights = bytearray((saved / WEIGHTS).read_bytes())
    weights[position] ^= 1
    (saved / WEIGHTS).write_bytes(weights)
    with pytest.raises(CheckpointError, match=f"{WEIGHTS}.*sha256"):
        checkpoint.load(saved)


def test_weights_cut_short_are_noticed(saved):
    (saved / WEIGHTS).write_bytes((saved / WEIGHTS).read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="sha256"):
        checkpoint.load(saved)


def test_optimiser_state_cut_short_is_noticed(saved):
    (saved / TRAINING).write_bytes((saved / TRAINING).read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=TRAINING):
        checkpoint.load_training_state(saved)


@pytest.mark.parametrize("name", [WEIGHTS, SIDECAR])
def test_a_missing_file_is_an_error_that_names_the_checkpoint(saved, name):
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=saved.name):
        checkpoint.load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["config"]["train"].update(learning_rate=1), r"train\.learning_rate"),
        (lambda t: t["config"]["model"]["encoder"].update(widths="wide"), r"model\.encoder\.widths"),
        (
            lambda t: t["config"]["model"]["encoder"].update(depths=[0, 1]),
            r"depths must have 6 values, got 2",
        ),
        (lambda t: t["config"]["model"]["flow"].update(hidden_dim=24), "size mismatch"),
        (lambda t: t["config"]["model"]["encoder"].update(depths=[0, 1, 0, 1, 1, 1]), "Missing key"),
        (lambda t: t.pop("config"), "config"),
        (lambda t: t.pop("step"), "step"),
        (lambda t: t.update(config=None), "step-00000007"),
    ],
)
def test_a_sidecar_that_does_not_fit_is_an_error(saved, change, message):
    edit_sidecar(saved, change)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(saved)


def test_a_sidecar_that_is_no_json_is_an_error(saved):
    (saved / SIDECAR).write_text('{"step": 7,')
    with pytest.raises(CheckpointError, match=saved.name):
        checkpoint.load(saved)


def test_a_run_stands_for_its_newest_checkpoint(saved, model, small_config):
    run = saved.parent
    for step in (90, 100):
        checkpoint.save(run, model, small_config, step, 2.0, STATE)
    assert checkpoint.load(run).step == 100


def test_a_half_written_checkpoint_is_no_checkpoint(saved, model, small_config):
    run = saved.parent
    part = run / ".step-00000009.part"
    part.mkdir()
    (part / SIDECAR).write_text((saved / SIDECAR).read_text())
    (run / "step-00000008").mkdir()  # no sidecar in it
    assert checkpoint.steps(run) == [saved]
    assert checkpoint.load(run).step == 7
    checkpoint.save(run, model, small_config, 10, 2.0, STATE)  # what a kill left over is cleared away
    assert not part.exists()
    assert checkpoint.load(run).step == 10


def test_a_failed_save_leaves_the_earlier_checkpoint(saved, model, small_config, monkeypatch):
    def full(*_args: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(saved.parent, model, small_config, 8, 2.0, STATE)
    assert checkpoint.load(saved.parent).step == 7


def test_the_last_two_are_kept(saved, model, small_config):
    run = saved.parent
    for step in (8, 9, 10):
        checkpoint.save(run, model, small_config, step, 2.0, STATE)
    assert [p.name for p in checkpoint.steps(run)] == ["step-00000009", "step-00000010"]
    assert sorted(p.name for p in run.iterdir()) == ["step-00000009", "step-00000010"]


def test_the_same_step_can_be_saved_twice(saved, model, small_config):
    again = checkpoint.save(saved.parent, model, replace(small_config), 7, 3.0, STATE)
    assert again == saved
    assert checkpoint.load(saved.parent).minutes == 3.0


@pytest.mark.parametrize("stage", ["first rename", "second rename", "removal"])
def test_a_kill_while_a_step_is_saved_again_leaves_a_checkpoint(
    saved, model, small_config, monkeypatch, stage
):
    run, replace_, rename_calls = saved.parent, os.replace, []

    class Killed(BaseException):
        pass

    def killing(source: Path, target: Path) -> None:
        rename_calls.append(target)
        if len(rename_calls) == {"first rename": 1, "second rename": 2}.get(stage):
            raise Killed
        replace_(source, target)

    def no_removal(_folder: Path, **_options: object) -> None:
        if len(rename_calls) == 2:
            raise Killed

    monkeypatch.setattr(checkpoint.os, "replace", killing)
    if stage == "removal":
        monkeypatch.setattr(checkpoint.shutil, "rmtree", no_removal)
    with pytest.raises(Killed):
        checkpoint.save(run, model, small_config, 7, 3.0, STATE)
    monkeypatch.undo()
    assert checkpoint.load(run).step == 7
    assert checkpoint.load(run).minutes == (3.0 if stage == "removal" else 1.5)
    for step in (7, 8, 9, 10):  # and what is left over is in nobody's way
        checkpoint.save(run, model, small_config, step, 4.0, STATE)
    assert sorted(p.name for p in run.iterdir() if p.name.startswith("step")) == [
        "step-00000009",
        "step-00000010",
    ]


def test_the_newer_of_two_checkpoints_of_a_step_is_the_one_without_old(saved, model, small_config):
    run = saved.parent
    saved.rename(run / "step-00000007.old")
    assert checkpoint.load(run).minutes == 1.5
    checkpoint.save(run, model, small_config, 7, 2.5, STATE)
    assert checkpoint.load(run).minutes == 2.5


def test_files_are_on_the_disk_before_the_checkpoint_has_its_name(saved, model, small_config, monkeypatch):
    events: list[str | int] = []
    fsync, replace_ = os.fsync, os.replace

    def flushing(handle: int) -> None:
        events.append(os.fstat(handle).st_ino)
        fsync(handle)

    def renaming(source: Path, target: Path) -> None:
        events.append("rename")
        replace_(source, target)

    monkeypatch.setattr(checkpoint.os, "fsync", flushing)
    monkeypatch.setattr(checkpoint.os, "replace", renaming)
    new = checkpoint.save(saved.parent, model, small_config, 8, 2.0, STATE)
    before = events[: events.index("rename")]
    assert set(before) == {p.stat().st_ino for p in (*new.iterdir(), new)}
    assert events[len(before) :] == ["rename", saved.parent.stat().st_ino]


def test_the_sidecar_names_the_data_and_not_where_it_lay(model, small_config, tmp_path):
    data = replace(
        small_config.data,
        photos=("/home/somebody/data/photos.tar", "more/"),
        videos=("../clips",),
        video_cache="/scratch/cache",
    )
    saved = checkpoint.save(tmp_path, model, replace(small_config, data=data), 1, 1.0, STATE)
    found = checkpoint.load(saved).config.data
    assert (found.photos, found.videos, found.images) == (("photos.tar", "more"), ("clips",), ("images",))
    text = (saved / SIDECAR).read_text()
    assert all(part not in text for part in ("somebody", "scratch", "..", str(tmp_path)))
    assert checkpoint.load(saved).config.data.workers == data.workers


def test_an_empty_run_has_no_checkpoint(tmp_path):
    assert checkpoint.steps(tmp_path) == []
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        checkpoint.load(tmp_path)
