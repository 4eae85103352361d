"""Where frames are equal, or show nothing, no motion is claimed; where something moves, it stays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from mcjepa import ops
from mcjepa.config import ModelConfig
from mcjepa.model import MCJEPA
from mcjepa.model.stillness import Stillness
from mcjepa.pictures import to_tensor

H, W = 192, 256
Frames = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def model(small_model: ModelConfig) -> MCJEPA:
    """Untrained: what it makes of frames is arbitrary, and large."""
    torch.manual_seed(0)
    model = MCJEPA(small_model).eval()
    torch.nn.init.normal_(model.flow_head.coarse.head.weight, std=0.3)
    return model


def flows(model: MCJEPA, frames: Frames) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the first frame to the second, and back: (1, 2, H, W) px."""
    one, two = (to_tensor([frame]) for frame in frames)
    with torch.no_grad():
        return model(one, two).flow, model(two, one).flow


def gate(frames: Frames) -> tuple[np.ndarray, float]:
    """The factor (H / 16, W / 16) and what is added, px."""
    grey = [torch.from_numpy(f.mean(-1, dtype=np.float32))[None, None] for f in frames]
    factor, doubt = Stillness()(*(torch.nn.functional.avg_pool2d(g, 4) for g in grey))
    return factor[0, 0].numpy(), float(doubt)


def plain(value: int) -> np.ndarray:
    return np.full((H, W, 3), value, np.uint8)


def moved(draw: Callable[[np.ndarray, int], None], background: np.ndarray, by: int) -> Frames:
    """Two frames of a background, on which something is drawn, `by` px to the right in the second."""
    frames = background.copy(), background.copy()
    for frame, x in zip(frames, (0, by), strict=True):
        draw(frame, x)
    return frames


@pytest.mark.parametrize("kind", ["black", "white", "grey", "ramp", "noise", "texture", "half plain"])
def test_equal_frames_do_not_move_and_hide_nothing(model, texture, kind):
    noise = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)
    frame = {
        "black": plain(0),
        "white": plain(255),
        "grey": plain(119),
        "ramp": np.broadcast_to(np.arange(W, dtype=np.uint8)[None, :, None], (H, W, 3)).copy(),
        "noise": noise,
        "texture": texture(H, W, 1),
        "half plain": np.where(np.arange(W)[None, :, None] < W // 2, plain(80), texture(H, W, 2)),
    }[kind]
    flow, back = flows(model, (frame, frame.copy()))
    assert flow.abs().max() == 0
    assert ops.occlusion_mask(flow, back).all()


def test_a_flow_is_left_alone_where_frames_differ(model, texture):
    scene = texture(H, W + 8, 3)
    flow, _ = flows(model, (scene[:, 8:].copy(), scene[:, :-8].copy()))
    assert (flow != 0).all(dim=1).float().mean() > 0.99


@pytest.mark.parametrize(
    ("one", "two"),
    [(0, 255), (255, 0), (100, 110), (0, "texture"), ("texture", 128), ("texture", 0)],
)
def test_a_frame_with_nothing_to_match_claims_no_motion_and_is_unsure(model, texture, one, two):
    first, second = (texture(H, W, 4) if value == "texture" else plain(value) for value in (one, two))
    flow, back = flows(model, (first, second))
    assert flow.norm(dim=1).max() < 0.5
    assert not ops.occlusion_mask(flow, back).any()


def test_plain_frames_that_differ_by_noise_are_alike(model):
    noise = np.random.default_rng(0).integers(-1, 2, (2, H, W, 3))
    flow, back = flows(model, tuple((119 + noise).astype(np.uint8)))
    assert flow.norm(dim=1).mean() < 0.02
    assert ops.occlusion_mask(flow, back)[..., 1:-1, 1:-1].all()


def test_the_inside_of_a_plain_object_goes_with_its_outline(texture):
    """Inside it both frames are equal, for 30 px around."""

    def disc(frame: np.ndarray, x: int) -> None:
        ys, xs = np.ogrid[:H, :W]
        frame[(ys - 96) ** 2 + (xs - x - 120) ** 2 < 40**2] = (220, 60, 40)

    on_texture, _ = gate(moved(disc, texture(H, W, 5), by=12))
    on_plain, _ = gate(moved(disc, plain(90), by=12))
    assert on_texture[6, 7] == on_plain[6, 7] == 1  # the middle
    assert (on_texture[:, [0, 1, -2, -1]] == 0).all()  # what is around stands
    assert (on_plain[[0, -1]] == 0).all()
    assert (on_plain[:, [0, -1]] == 0).all()


def test_the_long_edge_of_an_object_does_not_hold_it(texture):
    """Along its upper and lower edge, where it moves along itself, nothing changes."""

    def bar(frame: np.ndarray, x: int) -> None:
        frame[64:128, 40 + x : 200 + x] = 20

    factor, _ = gate(moved(bar, plain(160), by=6))
    assert (factor[4:8, 3:12] == 1).all()


def test_a_part_that_stands_beside_one_that_moves(texture):
    scene, still = texture(H, W + 8, 6), texture(H, W, 7)
    left = np.arange(W)[None, :, None] < W // 2
    frames = (np.where(left, still, scene[:, 8:]), np.where(left, still, scene[:, :-8]))
    factor, doubt = gate(frames)
    assert (factor[:, :2] == 0).all()
    assert (factor[:, 8:] == 1).all()
    assert doubt == 0


def test_a_slow_motion_is_no_standstill(texture):
    """A tenth of a pixel."""
    scene = texture(H, W, 9).astype(np.float32)
    blended = 0.9 * scene + 0.1 * np.roll(scene, 1, axis=1)
    factor, _ = gate((scene, blended))
    assert factor.mean() > 0.9
