"""Batches made on the training device: what test_batches.py and test_known_motion.py ask of workers'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from mcjepa import checkpoint, distributed, ops
from mcjepa.config import Config, ConfigError, validate
from mcjepa.data import device_motion
from mcjepa.data.batches import Batch, StepBatches, open_sources
from mcjepa.data.device_batches import DeviceBatches
from mcjepa.data.device_draws import Draws
from mcjepa.data.device_light import two_views
from mcjepa.data.device_motion import compose_pairs, random_shapes, street_motion
from mcjepa.train import Trainer, train
from torch import Tensor

CPU = torch.device("cpu")
SIZE = (128, 192)


def draws(*seed: int) -> Draws:
    return Draws(seed, CPU)


@pytest.fixture
def photos(texture: Callable[[int, int, int], np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack([texture(96, 144, i) for i in range(6)])).permute(0, 3, 1, 2)


@pytest.fixture
def unchanged_light(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_motion, "relight_pairs", lambda img1, img2, draws: (img1, img2))


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


@pytest.mark.usefixtures("unchanged_light")
def test_frame_2_warped_by_the_flow_is_frame_1_where_it_is_visible(photos):
    pairs = compose_pairs(photos, 9, SIZE, 30.0, draws(1))
    gap = (ops.warp(pairs.img2, pairs.flow) - pairs.img1).abs().mean(1)
    inside = ops.inside(pairs.flow)[:, 0] > 0
    moving = pairs.flow.flatten(1).abs().amax(1)
    assert moving.max() > 8
    assert gap[0][inside[0]].max() < 40  # one layer: all that stays inside is visible
    assert all(gap[i][inside[i]].median() < 4 for i in range(9))


@pytest.mark.usefixtures("unchanged_light")
def test_later_pairs_have_more_layers_in_front(photos, monkeypatch):
    """With backgrounds at rest and grey, what is not grey is a layer."""
    monkeypatch.setattr(device_motion, "_camera_motion", lambda size, reach, draws: torch.zeros(9, 2, 17, 25))
    grey = torch.full_like(photos, 128)
    backgrounds = device_motion._background
    monkeypatch.setattr(device_motion, "_background", lambda _, *rest: backgrounds(grey, *rest))
    pairs = compose_pairs(photos, 9, SIZE, 30.0, draws(2))
    covered = ((pairs.img2 - 128).abs().amax(1) > 0.5).float().mean((1, 2))
    assert covered[0] == 0  # 0 to 8 layers, as there are 9 pairs
    assert covered[6:].mean() > covered[1:4].mean() > 0
    assert not pairs.flow[0].any()
    assert pairs.flow[1:].any()


def test_a_layer_hides_what_is_behind_it_and_has_its_own_flow(photos, monkeypatch):
    """Layers that move at a constant pace before a still background: flow takes the value 0 and theirs."""
    still, moving = torch.zeros(1, 2, 17, 25), torch.full((1, 2, 17, 25), 5.0)
    monkeypatch.setattr(
        device_motion, "_camera_motion", lambda size, reach, draws: still.expand(9, -1, -1, -1)
    )
    monkeypatch.setattr(
        device_motion, "random_motion", lambda size, centre, *rest: moving.expand(len(centre), -1, -1, -1)
    )
    flow = compose_pairs(photos, 9, SIZE, 30.0, draws(3)).flow
    values = torch.unique((flow * 100).round() / 100)
    assert set(values.tolist()) <= {0.0, 1.5, 5.0}  # half of them move with 0.3 of it and the camera
    assert len(values) == 3


def test_pairs_are_a_function_of_the_seed(photos):
    one, again, other = (compose_pairs(photos, 3, SIZE, 20.0, draws(*s)) for s in ((1, 2), (1, 2), (1, 3)))
    assert torch.equal(one.img1, again.img1)
    assert torch.equal(one.flow, again.flow)
    assert not torch.equal(one.img1, other.img1)


@pytest.mark.parametrize("max_motion", [8.0, 60.0])
def test_displacements_reach_about_max_motion(photos, max_motion):
    flow = compose_pairs(photos, 60, (64, 64), max_motion, draws(4)).flow
    reached = torch.linalg.vector_norm(flow, dim=1).flatten(1).amax(1)
    assert 0.5 * max_motion < reached.max() < 6 * max_motion
    assert reached.median() < max_motion


def test_a_drive_along_a_street_spreads_from_where_it_goes():
    """Forward, without turning: nothing moves at the point ahead, more below, and always away from it."""

    class Straight(Draws):
        def chance(self, *shape: int, p: float) -> Tensor:
            return torch.ones(shape, dtype=torch.bool)

        def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
            """The middle of a range; of 0 to 1, the end, so that it drives as fast as it can."""
            if len(shape) > 1:
                return torch.zeros(shape)  # neither aside nor a turn
            return torch.full(shape, 1.0 if (low, high) == (0.0, 1.0) else (low + high) / 2)

        def sign(self, *shape: int) -> Tensor:
            return torch.zeros(shape) if shape == (1,) else torch.ones(shape)

    flow = street_motion(SIZE, torch.tensor([20.0]), Straight((0,), CPU))[0]
    outward = device_motion.coarse_grid(SIZE, flow)[0] - torch.tensor([96.0, 0.425 * 128])[:, None, None]
    length = torch.linalg.vector_norm(flow, dim=0)
    assert ((flow * outward).sum(0) >= 0).all()
    assert (flow[0] * outward[1] - flow[1] * outward[0]).abs().max() < 1e-2
    assert flow[1, -1].max() == pytest.approx(20, rel=0.05)  # the whole reach at the lower border
    assert length[7, 12] < 0.5 < length[-1].min()


def test_shapes_are_inside_one_radius_and_not_empty():
    shapes = random_shapes(40, draws(5))
    ticks = torch.linspace(-device_motion.SHAPE_REACH, device_motion.SHAPE_REACH, shapes.shape[1])
    far = torch.hypot(ticks[:, None], ticks[None, :]) > 1.05
    assert (shapes[:, far] < 0).all()
    areas = (shapes > 0).float().mean((1, 2))
    assert (areas > 0).float().mean() > 0.7
    assert areas.max() < torch.pi / (2 * device_motion.SHAPE_REACH) ** 2


def test_the_distance_to_a_square_is_exact():
    square = torch.tensor([[[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]])
    points = torch.tensor([[0.0, 0.0], [0.5, 0.0], [2.0, 0.0], [2.0, 2.0], [-1.0, 3.0]])
    wanted = torch.tensor([[1.0, 0.5, -1.0, -(2.0**0.5), -2.0]])
    torch.testing.assert_close(device_motion._inside_distance(points, square), wanted)


def test_views_differ_and_keep_the_colours_of_an_image_about(photos):
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


def test_no_image_comes_twice_while_there_are_enough():
    assert sorted(draws(7).distinct(5, 5).tolist()) == [0, 1, 2, 3, 4]
    assert sorted(draws(7).distinct(7, 5).tolist())[:7].count(0) <= 2


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
