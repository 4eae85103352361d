"""Training: what each switch trains, that runs resume exactly however they ended, and that it learns."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mcjepa import checkpoint, losses, train
from mcjepa.config import Config, ConfigError, RecurrentConfig, to_dict
from mcjepa.data.batches import Batch, batches, open_sources
from mcjepa.model import MCJEPA
from mcjepa.train import Trainer, TrainingDiverged, learning_rate
from torch import Tensor

CPU = torch.device("cpu")
FLOW = {"photometric", "feature", "smoothness", "cycle", "variance_covariance", "distillation"} | {
    "known_motion",
    "known_motion_levels",
}
CONTENT = {"invariance", "content_variance", "content_covariance"}


def with_train(config: Config, **changes: object) -> Config:
    return replace(config, train=replace(config.train, **changes))


def with_loss(config: Config, **changes: float) -> Config:
    return replace(config, loss=replace(config.loss, **changes))


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def step_batch(config: Config, step: int = 0) -> Batch:
    return next(iter(batches(open_sources(config), config.train.stages[0], config, range(step, step + 1))))


def network_flow(model: MCJEPA, img1: Tensor, img2: Tensor) -> Tensor:
    """What is trained: before refinement."""
    feats1, feats2 = model.encode(img1), model.encode(img2)
    return model.flow(feats1, feats2).flow


def assert_same_state(a: Path, b: Path) -> None:
    """Weights, buffers and the optimiser's state of two checkpoints agree bit for bit."""
    first, second = checkpoint.load(a), checkpoint.load(b)
    assert first.step == second.step
    assert first.weights_sha256 == second.weights_sha256
    state1, state2 = checkpoint.load_training_state(first.path), checkpoint.load_training_state(second.path)
    assert all(torch.equal(v, state2["model"][k]) for k, v in state1["model"].items())
    moments1, moments2 = state1["optimizer"]["state"], state2["optimizer"]["state"]
    assert moments1.keys() == moments2.keys()
    for number, values in moments1.items():
        assert all(torch.equal(v, moments2[number][k]) for k, v in values.items())


@pytest.fixture
def unbroken(small_config: Config, tmp_path: Path) -> Path:
    train.train(small_config, tmp_path / "unbroken", device="cpu")
    return tmp_path / "unbroken"


@pytest.fixture
def start(
    training_program: Callable[[str], Path], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess]:
    """start(config, run, trap) trains in a process group of its own, where `trap` may kill it."""

    def run_program(config: Config, run: Path, trap: str) -> subprocess.CompletedProcess:
        settings = tmp_path / "config.json"
        settings.write_text(json.dumps(to_dict(config)))
        command = [sys.executable, str(training_program(trap)), str(settings), str(run)]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=120, start_new_session=True, check=False
        )

    return run_program


def test_a_run_writes_metrics_and_a_checkpoint(small_config, unbroken):
    found = rows(unbroken)
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
    assert [row["max_motion"] for row in found] == [8.0] * 3 + [16.0] * 3
    for row in found:
        assert row.keys() >= FLOW | CONTENT | {"lr", "minutes", "grad_flow", "grad_content"}
        assert all(math.isfinite(value) for value in row.values())
    saved = checkpoint.load(unbroken)
    assert (saved.step, replace(saved.config, data=small_config.data)) == (6, small_config)
    torch.manual_seed(small_config.train.seed)
    fresh = Trainer(small_config, unbroken, CPU).model.state_dict()
    still = [k for k, v in saved.model.state_dict().items() if torch.equal(v, fresh[k])]
    assert still == []


def test_a_run_is_a_function_of_its_configuration(small_config, unbroken, tmp_path):
    train.train(small_config, tmp_path / "again", device="cpu")
    assert_same_state(unbroken, tmp_path / "again")


def test_a_finished_run_stays_as_it_is(small_config, unbroken):
    before = checkpoint.load(unbroken)
    train.train(small_config, unbroken, device="cpu")
    assert checkpoint.load(unbroken).weights_sha256 == before.weights_sha256
    assert len(rows(unbroken)) == 6


@pytest.mark.parametrize("stop_after", [2, 3, 4])  # within a stage, and at the border of two
def test_a_stopped_run_resumes_exactly(small_config, unbroken, tmp_path, monkeypatch, stop_after):
    run, step = tmp_path / "stopped", Trainer.train_step

    def stopping(self: Trainer, batch: Batch) -> dict[str, torch.Tensor]:
        terms = step(self, batch)
        if self.progress.step + 1 == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return terms

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Trainer, "train_step", stopping)
    train.train(small_config, run, device="cpu")
    assert checkpoint.load(run).step == stop_after
    assert signal.getsignal(signal.SIGTERM) is handler
    monkeypatch.undo()
    train.train(small_config, run, device="cpu")
    assert_same_state(unbroken, run)
    assert [row["step"] for row in rows(run)] == [1, 2, 3, 4, 5, 6]


def test_losses_are_logged_with_six_digits(small_config, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "train_step", lambda *_: {"tiny": torch.tensor(1.23456789e-7)})
    train.train(small_config, tmp_path, device="cpu")
    assert {row["tiny"] for row in rows(tmp_path)} == {1.23457e-7}


def test_a_killed_run_resumes_exactly_from_its_last_whole_checkpoint(small_config, unbroken, tmp_path, start):
    """Checkpoints after every step; killed while the one of step 4 is being written."""
    run = tmp_path / "killed"
    trap = """
save = checkpoint.os.replace
def killing(source, target):
    if str(target).endswith("4"):
        os.kill(os.getpid(), signal.SIGKILL)
    save(source, target)
checkpoint.os.replace = killing
"""
    config = with_train(small_config, checkpoint_minutes=0.0)
    assert start(config, run, trap).returncode == -signal.SIGKILL
    assert [p.name for p in checkpoint.steps(run)] == ["step-00000002", "step-00000003"]
    train.train(small_config, run, device="cpu")
    assert_same_state(unbroken, run)
    assert [row["step"] for row in rows(run)] == [1, 2, 3, 4, 5, 6]


def test_a_signal_to_the_whole_process_group_ends_a_run_in_order(small_config, tmp_path, start):
    """Ctrl-C in a terminal and most schedulers signal the worker processes too; those must not die of it."""
    run = tmp_path / "run"
    trap = """
import multiprocessing.connection, subprocess
step = train.Trainer.train_step
def signalling(self, batch):
    if self.progress.step == 1:
        subprocess.run(["sh", "-c", "kill -TERM 0"])  # by another process: workers heed their parent
        multiprocessing.connection.wait([w.sentinel for w in multiprocessing.active_children()], 0.5)
    return step(self, batch)
train.Trainer.train_step = signalling
"""
    config = replace(small_config, data=replace(small_config.data, workers=1))
    done = start(with_train(config, steps=5000), run, trap)
    assert done.returncode == 0, done.stderr
    assert checkpoint.load(run).step == 2


def test_another_configuration_does_not_resume_a_run(small_config, unbroken):
    with pytest.raises(ValueError, match="another configuration"):
        train.train(with_loss(small_config, cycle=0.5), unbroken, device="cpu")
    with pytest.raises(ValueError, match="another configuration"):
        train.train(with_train(small_config, seed=1), unbroken, device="cpu")


@pytest.mark.parametrize("change", [{"photos": ("other",)}, {"images": ()}, {"view_min_area": 0.5}])
def test_other_data_do_not_resume_a_run(small_config, unbroken, change):
    other = replace(small_config, data=replace(small_config.data, **change))
    with pytest.raises(ValueError, match="another configuration"):
        train.train(other, unbroken, device="cpu")


def test_a_run_does_not_start_with_settings_its_checkpoints_could_not_be_loaded_with(small_config, tmp_path):
    with pytest.raises(ConfigError, match=r"train\.lr must be above 0"):
        train.train(with_train(small_config, lr=0.0), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_run_can_be_made_longer(small_config, unbroken):
    train.train(with_train(small_config, steps=8), unbroken, device="cpu")
    assert checkpoint.load(unbroken).step == 8


def test_a_fresh_run_can_start_from_the_weights_of_another(small_config, unbroken, tmp_path):
    trainer = Trainer(small_config, tmp_path / "fresh", CPU)
    trainer.restore(unbroken)
    weights, theirs = trainer.model.state_dict(), checkpoint.load(unbroken).model.state_dict()
    assert all(torch.equal(weights[k], theirs[k]) for k in weights)
    assert trainer.progress.step == 0
    assert trainer.optimizer.state_dict()["state"] == {}


def changed(before: dict[str, torch.Tensor], trainer: Trainer) -> set[str]:
    """The parts of the model, by their first name, any parameter of which has changed."""
    now = trainer.model.state_dict()
    return {k.split(".")[0] for k in before if not torch.equal(before[k], now[k])}


@pytest.mark.parametrize(
    ("weights", "terms", "parts"),
    [
        ({}, FLOW | CONTENT, {"encoder", "flow_head", "expander"}),
        ({"flow": 0.0}, CONTENT, {"encoder", "expander"}),
        ({"content": 0.0}, FLOW, {"encoder", "flow_head"}),
    ],
)
def test_one_flag_makes_joint_content_only_or_flow_only(small_config, tmp_path, weights, terms, parts):
    config = with_loss(small_config, **weights)
    trainer = Trainer(config, tmp_path, CPU)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    found = trainer.train_step(step_batch(config))
    assert {k for k in found if not k.startswith("grad_")} == terms
    assert changed(before, trainer) == parts


@pytest.fixture
def recurrent_config(small_config):
    """A run on the recurrent head alone."""
    flow = replace(
        small_config.model.flow,
        recurrent=RecurrentConfig(
            iterations=2, match_dim=8, context_dim=8, state_dim=16, radius=2, scales=(1, 2)
        ),
    )
    return replace(
        small_config,
        model=replace(small_config.model, flow=flow),
        loss=replace(small_config.loss, content=0.0, known_motion_decay=0.8),
        train=replace(small_config.train, frozen=("encoder", "flow_head")),
    )


def test_frozen_parts_stay_as_they_are(recurrent_config, tmp_path):
    trainer = Trainer(recurrent_config, tmp_path, CPU)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.run_to_end(open_sources(recurrent_config))
    assert changed(before, trainer) == {"recurrent_head"}


@pytest.mark.parametrize("name", ["decoder", "flow_head.nothing"])
def test_a_part_to_freeze_that_the_model_lacks_is_an_error(small_config, tmp_path, name):
    config = replace(small_config, train=replace(small_config.train, frozen=(name,)))
    with pytest.raises(ConfigError, match=name):
        Trainer(config, tmp_path, CPU)


def test_a_recurrent_head_starts_from_weights_that_have_none(recurrent_config, unbroken, tmp_path):
    trainer = Trainer(recurrent_config, tmp_path / "fresh", CPU)
    trainer.restore(unbroken)
    weights, theirs = trainer.model.state_dict(), checkpoint.load(unbroken).model.state_dict()
    assert all(torch.equal(weights[k], theirs[k]) for k in theirs)
    assert torch.equal(weights["recurrent_head.squeeze.weight"], theirs["flow_head.squeeze.weight"])
    assert torch.equal(
        weights["recurrent_head.matcher.project.weight"], theirs["flow_head.matchers.0.project.weight"]
    )
    averaged = trainer.averaged().state_dict()
    assert all(torch.equal(averaged[k], weights[k]) for k in weights)


def test_flow_waits_for_the_content_warm_up(small_config, tmp_path):
    train.train(with_train(small_config, content_warmup=0.5), tmp_path, device="cpu")
    assert ["known_motion" in row for row in rows(tmp_path)] == [False] * 3 + [True] * 3
    assert all(row.keys() >= CONTENT for row in rows(tmp_path))


def test_without_content_flow_waits_for_nothing(small_config, tmp_path):
    config = with_loss(with_train(small_config, content_warmup=0.5), content=0.0)
    assert Trainer(config, tmp_path, CPU).train_step(step_batch(config)).keys() >= FLOW


def test_clipping_keeps_the_weights_of_flow_and_content(small_config, tmp_path):
    """With a limit so low that both are clipped, their gradients are as their weights."""
    config = with_train(with_loss(small_config, flow=0.1, content=0.5), clip_norm=1e-3, balance="clip")
    trainer, sizes = Trainer(config, tmp_path, CPU), {}
    batch = step_batch(config)
    for name, terms in (("flow", trainer.flow_terms(batch)), ("content", trainer.content_terms(batch))):
        gradients: list[torch.Tensor | None] = [None] * len(trainer.parameters)
        trainer._accumulate(gradients, terms, getattr(config.loss, name), f"grad_{name}")
        sizes[name] = math.sqrt(sum(float(g.square().sum()) for g in gradients if g is not None))
    assert sizes == pytest.approx({"flow": 1e-4, "content": 5e-4}, rel=1e-2)


def test_normalising_brings_what_reaches_the_encoder_to_the_weights_of_flow_and_content(
    small_config, tmp_path
):
    config = with_train(with_loss(small_config, flow=0.1, content=0.5), clip_norm=3.0, balance="normalise")
    trainer, sizes = Trainer(config, tmp_path, CPU), {}
    batch = step_batch(config)
    for name, terms in (("flow", trainer.flow_terms(batch)), ("content", trainer.content_terms(batch))):
        gradients: list[torch.Tensor | None] = [None] * len(trainer.parameters)
        trainer._accumulate(gradients, terms, getattr(config.loss, name), f"grad_{name}")
        of_encoder = zip(trainer.parameters, gradients, strict=True)
        shared = [g for p, g in of_encoder if g is not None and id(p) in trainer.shared]
        sizes[name] = math.sqrt(sum(float(g.square().sum()) for g in shared))
    assert sizes == pytest.approx({"flow": 0.3, "content": 1.5}, rel=1e-3)


def test_checkpoints_hold_the_average_of_the_weights(small_config, tmp_path, monkeypatch):
    config, seen = with_train(small_config, ema_decay=0.5), []
    step = Trainer.train_step

    def watching(self: Trainer, batch: Batch) -> dict[str, torch.Tensor]:
        terms = step(self, batch)
        seen.append(self.model.encoder.down[0].weight.detach().clone())
        return terms

    monkeypatch.setattr(Trainer, "train_step", watching)
    train.train(config, tmp_path, device="cpu")
    expected = seen[0]
    for weights in seen[1:]:
        expected = 0.5 * expected + 0.5 * weights
    torch.testing.assert_close(checkpoint.load(tmp_path).model.encoder.down[0].weight, expected)


def test_the_teacher_sees_more_of_the_same_frames(small_config, tmp_path):
    """What it teaches is its own flow, cut where the student's crop was cut."""
    trainer = Trainer(small_config, tmp_path, CPU)
    teacher = trainer.average.module
    torch.nn.init.normal_(teacher.flow_head.coarse.head.weight, std=0.1)
    batch = step_batch(small_config)
    taught, visible = trainer.teach(batch)
    with torch.no_grad():
        whole = network_flow(teacher, batch["teacher1"], batch["teacher2"])
    (y, x), (h, w) = batch["corner"][0].tolist(), small_config.train.stages[0].crop
    torch.testing.assert_close(taught, whole[:, :, y : y + h, x : x + w], rtol=1e-3, atol=1e-3)
    assert visible.shape == (1, 1, h, w)
    assert not taught.requires_grad


def test_the_gradient_of_a_step_is_the_sum_of_flow_and_content(small_config, tmp_path):
    config = with_train(small_config, clip_norm=1e9, balance="clip")
    trainer = Trainer(config, tmp_path, CPU)
    batch = step_batch(config)
    total = sum((trainer.flow_terms(batch) | trainer.content_terms(batch)).values())
    expected = torch.autograd.grad(total, trainer.parameters, allow_unused=True)
    trainer.train_step(batch)
    for parameter, gradient in zip(trainer.parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-4)


def test_video_pairs_are_taken_both_ways(small_config, tmp_path, monkeypatch):
    trainer = Trainer(small_config, tmp_path, CPU)
    trainer.model.eval()
    torch.nn.init.normal_(trainer.model.flow_head.coarse.head.weight, std=0.1)
    taken, batch = [], step_batch(small_config)
    monkeypatch.setattr(losses, "video_terms", lambda video, _config: taken.append(video) or {})
    monkeypatch.setattr(losses, "known_motion_terms", lambda flow, *_: taken.append(flow) or {})
    with torch.no_grad():
        trainer.flow_terms(batch)
        forward = network_flow(trainer.model, batch["video1"], batch["video2"])
        backward = network_flow(trainer.model, batch["video2"], batch["video1"])
        known = network_flow(trainer.model, batch["known1"], batch["known2"])
    video, known_flow = taken
    assert (forward - backward).abs().max() > 0.1
    torch.testing.assert_close(video.flow12, torch.cat([forward, backward]), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(video.flow21, torch.cat([backward, forward]), rtol=1e-2, atol=1e-2)
    assert torch.equal(video.img1, torch.cat([batch["video1"], batch["video2"]]) / 255)
    assert torch.equal(video.img2, torch.cat([batch["video2"], batch["video1"]]) / 255)
    for feats, images in ((video.feats1, video.img1), (video.feats2, video.img2)):
        with torch.no_grad():
            expected = trainer.model.encode(images * 255)
        for a, b in zip(feats, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(known_flow, known, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("group", ["content_terms", "known_motion_terms"])
def test_a_loss_that_is_not_finite_stops_before_it_reaches_the_weights(
    small_config, tmp_path, monkeypatch, group
):
    original = getattr(losses, group)
    monkeypatch.setattr(losses, group, lambda *a: {k: v * math.nan for k, v in original(*a).items()})
    trainer = Trainer(small_config, tmp_path, CPU)
    before = {k: v.clone() for k, v in trainer.model.named_parameters()}
    with pytest.raises(TrainingDiverged, match=r"step 0: .*nan"):
        trainer.train_step(step_batch(small_config))
    assert all(torch.equal(v, before[k]) for k, v in trainer.model.named_parameters())


def test_overfitting_one_batch_lowers_the_known_motion_loss(small_config, tmp_path):
    config = with_train(with_loss(small_config, content=0.0), lr=3e-3, steps=1000)
    trainer, batch = Trainer(config, tmp_path, CPU), step_batch(config, 3)
    course = [float(trainer.train_step(batch)["known_motion"]) for _ in range(40)]
    assert sum(course[-5:]) < 0.7 * sum(course[:5])


def test_bf16_trains_in_float32_weights(small_config, tmp_path):
    trainer = Trainer(with_train(small_config, bf16=True), tmp_path, CPU)
    terms = trainer.train_step(step_batch(small_config))
    assert all(v.dtype == torch.float32 and torch.isfinite(v) for v in terms.values())
    assert all(p.dtype == torch.float32 for p in trainer.parameters)


def test_learning_rate_warms_up_and_then_falls_to_zero(small_config):
    config = with_train(small_config, lr=1.0, warmup_steps=4, steps=100)
    assert [learning_rate(config, step, 0.0) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert learning_rate(config, 50, 0.5) == pytest.approx(0.5)
    assert learning_rate(config, 100, 1.0) == pytest.approx(0.0)


def test_a_run_by_the_clock_ends_by_the_clock(small_config, tmp_path, monkeypatch):
    clock = [0.0]

    def tick() -> float:
        clock[0] += 0.5
        return clock[0]

    monkeypatch.setattr(train.time, "monotonic", tick)
    train.train(with_train(small_config, minutes=0.5), tmp_path, device="cpu")
    saved = checkpoint.load(tmp_path)
    assert saved.minutes == pytest.approx(0.5, abs=0.1)
    assert {row["max_motion"] for row in rows(tmp_path)} == {8.0, 16.0}
    train.train(with_train(small_config, minutes=0.5), tmp_path, device="cpu")  # the time is spent
    assert checkpoint.load(tmp_path).step == saved.step
