"""Batches made on the training device: what test_batches.py asks of those of workers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mcjepa import checkpoint, distributed
from mcjepa.config import Config, ConfigError, validate
from mcjepa.data.batches import Batch, StepBatches, open_sources
from mcjepa.data.device_batches import DeviceBatches
from mcjepa.data.device_views import two_views
from mcjepa.data.draws import Draws
from mcjepa.train import Trainer, train
from torch import Tensor

CPU = torch.device("cpu")


@pytest.fixture
def on_device(small_config: Config) -> Config:
    """The small configuration without video pairs, its batches made on the device."""
    stages = tuple(replace(stage, batch=3, video_batch=0) for stage in small_config.train.stages)
    data, train_config = (
        replace(small_config.data, on_device=True),
        replace(small_config.train, stages=stages),
    )
    return replace(small_config, data=data, train=train_config)


def made(config: Config, step: int) -> Batch:
    return DeviceBatches(open_sources(config), config, CPU).batch(config.train.stages[0], step)


def equal(a: Batch, b: Batch) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_views_differ_and_keep_the_colours_of_an_image_about(photos, draws):
    images = photos[:, :, :64, :64].repeat(20, 1, 1, 1)
    first, second = two_views(images, 64, 0.25, draws(6))
    assert first.shape == second.shape == (120, 3, 64, 64)
    assert first.dtype == torch.uint8
    assert (first.float() - second.float()).abs().mean((1, 2, 3)).min() > 1
    assert (first.float().mean() - images.float().mean()).abs() < 25


def test_a_view_of_a_whole_image_that_nothing_changes_is_the_image(photos):
    class Nothing(Draws):
        def chance(self, *shape: int, p: float) -> Tensor:
            return torch.zeros(shape, dtype=torch.bool)

        def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
            return torch.full(shape, high)

        def log_uniform(self, *shape: int, low: float, high: float) -> Tensor:
            return torch.ones(shape)

    images = photos[:, :, :64, :64]
    first, _ = two_views(images, 64, 0.25, Nothing((0,), CPU))
    assert torch.equal(first, images)


def test_batches_have_the_keys_and_shapes_of_those_of_workers(on_device):
    sources, stage = open_sources(on_device), on_device.train.stages[0]
    here, there = made(on_device, 3), StepBatches(sources, stage, on_device)[3]
    assert {k: (v.shape, v.dtype) for k, v in here.items()} == {
        k: (v.shape, v.dtype) for k, v in there.items()
    }


def test_a_batch_is_a_function_of_seed_and_step(on_device):
    other = replace(on_device, train=replace(on_device.train, seed=1))
    assert equal(made(on_device, 3), made(on_device, 3))
    for batch in (made(on_device, 4), made(other, 3)):
        assert not any(torch.equal(batch[k], v) for k, v in made(on_device, 3).items())


def test_processes_have_parts_of_their_own(on_device, monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(made(on_device, 5))
    assert [len(part["known1"]) for part in parts] == [1, 1, 1]
    assert [len(part["view1"]) for part in parts] == [2, 2, 2]
    assert not torch.equal(parts[0]["known1"], parts[1]["known1"])


def test_no_image_comes_twice_while_there_are_enough(draws):
    assert sorted(draws(7).distinct(5, 5).tolist()) == [0, 1, 2, 3, 4]
    more = draws(7).distinct(7, 5).tolist()
    assert len(more) == 7
    assert sorted(more[:5]) == [0, 1, 2, 3, 4]


def test_a_run_trains_on_them_and_resumes_exactly(on_device, tmp_path, monkeypatch):
    whole, parts, step = tmp_path / "whole", tmp_path / "parts", Trainer.train_step
    train(on_device, whole, device="cpu")

    def stopping(self: Trainer, batch: Batch) -> dict[str, Tensor]:
        self.stop = self.progress.step == 3
        return step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", stopping)
    train(on_device, parts, device="cpu")
    assert checkpoint.load(parts).step == 4
    monkeypatch.undo()
    train(on_device, parts, device="cpu")
    assert checkpoint.load(whole).step == checkpoint.load(parts).step == 6
    assert checkpoint.load(whole).weights_sha256 == checkpoint.load(parts).weights_sha256


def test_video_pairs_are_refused(on_device):
    stages = (replace(on_device.train.stages[0], video_batch=1, until=1.0),)
    with pytest.raises(
        ConfigError, match=r"train.stages\[0\].video_batch must be 0 with data.on_device, got 1"
    ):
        validate(replace(on_device, train=replace(on_device.train, stages=stages)))
