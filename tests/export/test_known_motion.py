"""Known-motion pairs: the flow is the truth about the two frames, also where layers hide each other."""

from __future__ import annotations

import pytest
import torch
from mcjepa import ops
from mcjepa.data import known_motion
from mcjepa.data.draws import Draws
from mcjepa.data.known_motion import (
    PHOTO,
    Pairs,
    as_photo,
    coarse_grid,
    compose_pairs,
    random_motion,
    random_shapes,
    street_motion,
)
from torch import Tensor

CPU = torch.device("cpu")
SIZE = (128, 192)


@pytest.fixture
def unchanged_light(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_motion, "relight_pairs", lambda img1, img2, draws: (img1, img2))


@pytest.mark.usefixtures("unchanged_light")
def test_frame_2_warped_by_the_flow_is_frame_1_where_it_is_visible(photos, draws):
    pairs = compose_pairs(photos, 9, SIZE, 30.0, draws(1))
    gap = (ops.warp(pairs.img2, pairs.flow) - pairs.img1).abs().mean(1)
    inside = ops.inside(pairs.flow)[:, 0] > 0
    moving = pairs.flow.flatten(1).abs().amax(1)
    assert moving.max() > 8
    assert gap[0][inside[0]].max() < 40  # one layer: all that stays inside is visible
    assert all(gap[i][inside[i]].median() < 4 for i in range(9))


@pytest.mark.usefixtures("unchanged_light")
def test_later_pairs_have_more_layers_in_front(photos, monkeypatch, draws):
    """With backgrounds at rest and grey, what is not grey is a layer."""
    monkeypatch.setattr(known_motion, "_camera_motion", lambda size, reach, draws: torch.zeros(9, 2, 17, 25))
    grey = torch.full_like(photos, 128)
    backgrounds = known_motion._background
    monkeypatch.setattr(known_motion, "_background", lambda _, *rest: backgrounds(grey, *rest))
    pairs = compose_pairs(photos, 9, SIZE, 30.0, draws(2))
    covered = ((pairs.img2 - 128).abs().amax(1) > 0.5).float().mean((1, 2))
    assert covered[0] == 0  # 0 to 8 layers, as there are 9 pairs
    assert covered[6:].mean() > covered[1:4].mean() > 0
    assert not pairs.flow[0].any()
    assert pairs.flow[1:].any()


def test_a_layer_hides_what_is_behind_it_and_has_its_own_flow(photos, monkeypatch, draws):
    """Layers that move at a constant pace before a still background: flow takes the value 0 and theirs."""
    still, moving = torch.zeros(1, 2, 17, 25), torch.full((1, 2, 17, 25), 5.0)
    monkeypatch.setattr(
        known_motion, "_camera_motion", lambda size, reach, draws: still.expand(9, -1, -1, -1)
    )
    monkeypatch.setattr(
        known_motion, "random_motion", lambda size, centre, *rest: moving.expand(len(centre), -1, -1, -1)
    )
    flow = compose_pairs(photos, 9, SIZE, 30.0, draws(3)).flow
    values = torch.unique((flow * 100).round() / 100)
    assert set(values.tolist()) <= {0.0, 1.5, 5.0}  # half of them move with 0.3 of it and the camera
    assert len(values) == 3


def test_pairs_are_a_function_of_the_seed(photos, draws):
    one, again, other = (compose_pairs(photos, 3, SIZE, 20.0, draws(*s)) for s in ((1, 2), (1, 2), (1, 3)))
    assert torch.equal(one.img1, again.img1)
    assert torch.equal(one.flow, again.flow)
    assert not torch.equal(one.img1, other.img1)


@pytest.mark.usefixtures("unchanged_light")
def test_without_motion_nothing_moves(photos, draws):
    pairs = compose_pairs(photos, 9, SIZE, 0.0, draws(8))
    assert not pairs.flow.any()
    torch.testing.assert_close(pairs.img1, pairs.img2, atol=0.1, rtol=0)


def test_a_pair_by_itself_has_from_none_to_all_of_the_layers(photos, monkeypatch, draws):
    numbers: list[int] = []
    paste = known_motion._paste

    def counting(cut_outs: known_motion.CutOuts, firsts: list[int], frames: Tensor, flow: Tensor) -> None:
        numbers.append(len(cut_outs.shapes))
        paste(cut_outs, firsts, frames, flow)

    monkeypatch.setattr(known_motion, "_paste", counting)
    for seed in range(40):
        compose_pairs(photos, 1, (64, 64), 5.0, draws(9, seed))
    assert 1 <= 40 - len(numbers) <= 12  # those of none
    assert (min(numbers), max(numbers)) == (1, known_motion.MOST_LAYERS)


def test_a_motion_is_smooth(draws):
    reach, centre, radius = torch.full((40,), 10.0), torch.tensor([[70.0, 40.0]]), torch.full((40,), 50.0)
    flow = random_motion(SIZE, centre.expand(40, 2), radius, reach, draws(10))
    steps = max(flow.diff(dim=2).abs().max(), flow.diff(dim=3).abs().max()) / known_motion.STEP
    assert steps < 1.0
    assert torch.isfinite(flow).all()


@pytest.mark.parametrize("shape", [(20, 30), (300, 40), (64, 64), (500, 900)])
def test_photos_of_any_size_and_shape_fill_the_frame(texture, shape, draws):
    photo = as_photo(texture(*shape, 1))
    assert photo.shape == (*PHOTO, 3)
    pairs: Pairs = compose_pairs(
        torch.from_numpy(photo[None].copy()).permute(0, 3, 1, 2), 2, SIZE, 5.0, draws(5)
    )
    assert pairs.img1.shape == (2, 3, *SIZE)
    assert pairs.img1.float().std() > 5


@pytest.mark.parametrize("max_motion", [8.0, 60.0])
def test_displacements_reach_about_max_motion(photos, max_motion, draws):
    flow = compose_pairs(photos, 60, (64, 64), max_motion, draws(4)).flow
    reached = torch.linalg.vector_norm(flow, dim=1).flatten(1).amax(1)
    assert 0.5 * max_motion < reached.max() < 3 * max_motion
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
    outward = coarse_grid(SIZE, flow)[0] - torch.tensor([96.0, 0.425 * 128])[:, None, None]
    length = torch.linalg.vector_norm(flow, dim=0)
    assert ((flow * outward).sum(0) >= 0).all()
    assert (flow[0] * outward[1] - flow[1] * outward[0]).abs().max() < 1e-2
    assert flow[1, -1].max() == pytest.approx(20, rel=0.05)  # the whole reach at the lower border
    assert length[7, 12] < 0.5 < length[-1].min()


def test_shapes_are_inside_one_radius_and_not_empty(draws):
    shapes = random_shapes(40, draws(5))
    ticks = torch.linspace(-known_motion.SHAPE_REACH, known_motion.SHAPE_REACH, shapes.shape[1])
    far = torch.hypot(ticks[:, None], ticks[None, :]) > 1.05
    assert (shapes[:, far] < 0).all()
    areas = (shapes > 0).float().mean((1, 2))
    assert (areas > 0).float().mean() > 0.7
    assert areas.max() < torch.pi / (2 * known_motion.SHAPE_REACH) ** 2


def test_the_distance_to_a_square_is_exact():
    square = torch.tensor([[[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]])
    points = torch.tensor([[0.0, 0.0], [0.5, 0.0], [2.0, 0.0], [2.0, 2.0], [-1.0, 3.0]])
    wanted = torch.tensor([[1.0, 0.5, -1.0, -(2.0**0.5), -2.0]])
    torch.testing.assert_close(known_motion._inside_distance(points, square), wanted)
