"""Known-motion pairs: the flow is the truth about the two frames, also where layers hide each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from mcjepa import ops
from mcjepa.config import SyntheticConfig
from mcjepa.data import known_motion
from mcjepa.data.draws import Draws
from mcjepa.data.known_motion import PHOTO, Pairs, as_photo, compose_pairs
from mcjepa.data.synthetic import cut_outs, layers, shapes
from mcjepa.data.synthetic.grids import STEP, coarse_grid, covered, enlarge, points, whole
from mcjepa.data.synthetic.motion import random_motion, street_motion
from mcjepa.data.synthetic.shapes import random_shapes
from torch import Tensor

CPU = torch.device("cpu")
SIZE = (128, 192)
NAMES = [f.name for f in fields(SyntheticConfig)]
OFF = SyntheticConfig(**dict.fromkeys(NAMES, 0.0))
MOTIONS = ["tiny_motion", "still_camera", "turning", "stretch", "fast", "limbs", "holed"]
IMAGES_ALONE = [name for name in NAMES if name not in MOTIONS]


@pytest.fixture
def compose(photos: Tensor, draws: Callable[..., Draws]) -> Callable[..., Pairs]:
    """compose(seed, max_motion, name=chance): eleven pairs, of 0 to 10 cut-outs, everything else off."""

    def make(seed: int, max_motion: float = 30.0, **on: float) -> Pairs:
        return compose_pairs(photos, 11, SIZE, max_motion, draws(seed), replace(OFF, **on))

    return make


def gap(pairs: Pairs) -> list[Tensor]:
    """How far frame 1 is from frame 2 at the end of the flow, of the visible pixels of each pair."""
    away = (ops.warp(pairs.img2.float(), pairs.flow) - pairs.img1.float()).abs().mean(1)
    return [a[v] for a, v in zip(away, pairs.visible[:, 0], strict=True)]


@pytest.mark.parametrize(
    "on", [{}, *({name: 1.0} for name in [*MOTIONS, "sharp", "plain", "repeated", "defocus"])]
)
def test_frame_2_warped_by_the_flow_is_frame_1_where_it_is_visible(compose, on):
    pairs = compose(1, 30.0, **on)
    assert pairs.visible.float().mean() > 0.5
    assert all(away.median() < 4 for away in gap(pairs))
    assert all(away.quantile(0.8) < 20 for away in gap(pairs))


def test_hidden_pixels_do_not_count_as_visible(compose):
    """Where frame 2 shows something else, the frames differ: what is called hidden does so far more often."""
    pairs = compose(1)
    away = (ops.warp(pairs.img2.float(), pairs.flow) - pairs.img1.float()).abs().mean(1, keepdim=True)
    inside = ops.inside(pairs.flow) > 0
    hidden = inside & ~pairs.visible
    assert hidden.float().mean() > 0.005
    assert away[hidden].mean() > 5 * away[pairs.visible].mean()


@pytest.mark.parametrize("name", IMAGES_ALONE)
def test_what_changes_images_leaves_the_flow_as_it_is(compose, name):
    without, with_it = compose(2), compose(2, **{name: 1.0})
    assert torch.equal(without.flow, with_it.flow)
    assert torch.equal(without.visible, with_it.visible) is (name != "erased")
    assert not torch.equal(without.img2, with_it.img2)
    assert torch.equal(without.img1, with_it.img1) is (name == "erased")


@pytest.mark.parametrize("name", MOTIONS)
def test_what_changes_motion_changes_the_flow(compose, name):
    assert not torch.equal(compose(3).flow, compose(3, **{name: 1.0}).flow)


def test_motion_blur_is_symmetric_about_the_instant_of_a_frame():
    """A bright column that moves by 8 px, the shutter open for half of the time: wide and not displaced."""
    photo = torch.zeros(1, 3, 96, 144, dtype=torch.uint8)
    photo[..., 40] = 240
    flow = torch.tensor([8.0, 0.0]).reshape(1, 2, 1, 1).expand(-1, -1, 13, 19)
    looks = points((96, 144), flow) * torch.tensor([2 / 143, 2 / 95]).reshape(1, 2, 1, 1, 1) - 1
    moving = layers.Layers(photo, flow, looks, torch.tensor([0.5]))
    for shutter, width in (("closed", 0.0), ("open", 8 * 0.5 / 12**0.5)):
        blurred = torch.arange(1 if shutter == "open" else 0)
        rows = moving.draw(slice(None), blurred, layers.View((96, 144))).mean((0, 1, 3))  # (2, W)
        x, share = torch.arange(144.0), rows / rows.sum(1, keepdim=True)
        middle = (share * x).sum(1)
        torch.testing.assert_close(middle, torch.tensor([32.0, 40.0]), atol=1e-2, rtol=0)
        spread = (share * (x - middle[:, None]).square()).sum(1).sqrt()
        torch.testing.assert_close(spread, torch.full((2,), width), atol=0.3, rtol=0)


def test_frames_blurred_by_motion_still_match(compose):
    pairs, sharp = compose(4, motion_blur=1.0), compose(4)
    assert (pairs.img1.float() - sharp.img1.float()).abs().mean((1, 2, 3)).max() > 3
    assert all(away.median() < 4 for away in gap(pairs))


def test_erased_patches_are_in_frame_2_alone_and_not_visible(compose):
    without, pairs = compose(5, 0.0), compose(5, 0.0, erased=1.0)
    changed = (without.img2 != pairs.img2).any(1, keepdim=True)
    assert changed.any((1, 2, 3)).all()
    assert not pairs.visible[changed].any()
    assert (without.visible & ~pairs.visible).float().mean() < 0.3


def test_a_still_camera_leaves_backgrounds_at_rest(compose):
    flow = compose(6, 30.0, still_camera=1.0).flow
    assert not flow[0].any()  # that of no cut-outs
    assert flow[3:].flatten(1).any(1).all()


def test_tiny_motions_are_about_3_px_at_most(compose):
    reached = torch.linalg.vector_norm(compose(7, 100.0, tiny_motion=1.0).flow, dim=1).flatten(1).amax(1)
    assert reached.median() < 3
    assert reached.max() < 9  # a motion may add up to more than its reach


def test_a_limb_turns_about_a_joint_of_the_cut_out_before_it(draws):
    """Cut-outs of one pair, in a chain: each moves with its parent at one point, and turns about that."""
    size, reach = SIZE, torch.full((1,), 20.0)
    scene = cut_outs.Scene(size, torch.zeros(1, 2, 17, 25), reach, reach, torch.ones(1, 2), torch.zeros(1))
    owners = torch.zeros(4, dtype=torch.long)
    bodies = cut_outs._bodies(owners, scene, replace(OFF, limbs=1.0), draws(8))
    cut_outs._grow_limbs(bodies, [0] * 4, scene, OFF, draws(9))
    assert bodies.limb.tolist() == [False, True, True, True]
    for child in range(1, 4):
        turn = bodies.flow[child] - bodies.flow[child - 1]
        (a, b), (c, d) = (
            (turn.diff(dim=2)[:, 0, 0] / STEP).tolist(),
            (turn.diff(dim=1)[:, 0, 0] / STEP).tolist(),
        )
        assert (a, b) == pytest.approx((d, -c), abs=1e-4)  # a rotation, less the identity
        assert (a + 1) ** 2 + b**2 == pytest.approx(1, abs=1e-3)


def test_pairs_are_a_function_of_the_seed(photos, draws):
    one, again, other = (compose_pairs(photos, 3, SIZE, 20.0, draws(*s)) for s in ((1, 2), (1, 2), (1, 3)))
    assert torch.equal(one.img1, again.img1)
    assert torch.equal(one.flow, again.flow)
    assert not torch.equal(one.img1, other.img1)


def test_with_everything_on_values_are_finite_and_in_their_range(photos, draws):
    everything = SyntheticConfig(**dict.fromkeys(NAMES, 1.0))
    pairs = compose_pairs(photos, 11, SIZE, 200.0, draws(10), everything)
    assert pairs.img1.dtype == pairs.img2.dtype == torch.uint8
    assert torch.isfinite(pairs.flow).all()
    assert pairs.visible.dtype == torch.bool
    assert (pairs.flow.shape, pairs.visible.shape) == ((11, 2, *SIZE), (11, 1, *SIZE))


def test_without_motion_nothing_moves(compose):
    pairs = compose(8, 0.0)
    assert not pairs.flow.any()
    assert pairs.visible.all()
    torch.testing.assert_close(pairs.img1, pairs.img2, atol=1, rtol=0)


def test_a_part_of_the_frame_is_drawn_as_the_whole_frame_is(compose, monkeypatch):
    """On a GPU each cut-out is drawn on the whole frame, here where it is seen."""
    here = compose(9, motion_blur=0.5)
    monkeypatch.setattr("mcjepa.data.synthetic.layers.covered", lambda places, size: whole(size))
    there = compose(9, motion_blur=0.5)
    assert torch.equal(here.flow, there.flow)
    torch.testing.assert_close(here.img1, there.img1, atol=1, rtol=0)
    torch.testing.assert_close(here.img2, there.img2, atol=1, rtol=0)


@pytest.mark.gpu
def test_a_gpu_is_never_waited_for(photos):
    """Numbers that the host needs come from the host; a second batch has its constants already."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    there, device = photos.cuda(), torch.device("cuda")
    everything = SyntheticConfig(**dict.fromkeys(NAMES, 0.9))
    compose_pairs(there, 11, SIZE, 30.0, Draws((1,), device), everything)
    torch.cuda.set_sync_debug_mode("error")
    try:
        pairs = compose_pairs(there, 11, SIZE, 30.0, Draws((2,), device), everything)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(pairs.flow).all()


def test_a_window_holds_what_is_between_the_points_of_the_grid():
    """A disc of 2 px that no point of the coarse grid is on."""
    grid = coarse_grid((32, 48), torch.zeros(1))
    places = (grid - torch.tensor([20.0, 12.0]).reshape(1, 2, 1, 1))[:, :, None] / 2
    window = covered(places, (32, 48))
    assert window == (1, 2, 2, 3)
    assert (
        (enlarge(places, (32, 48), window).abs().amax(1) < 1).sum()
        == (enlarge(places, (32, 48)).abs().amax(1) < 1).sum()
        > 0
    )
    assert covered(places + 100, (32, 48)) is None


def test_later_pairs_have_more_cut_outs_and_a_pair_by_itself_any_number(draws):
    firsts = known_motion._first_pairs(11, draws(1))
    assert firsts == list(range(1, 11))
    numbers = [known_motion._first_pairs(1, draws(9, seed)).count(0) for seed in range(60)]
    assert set(numbers) == set(range(known_motion.MOST_LAYERS + 1))


def test_a_motion_is_smooth(draws):
    reach, centre, radius = torch.full((40,), 10.0), torch.tensor([[70.0, 40.0]]), torch.full((40,), 50.0)
    flow = random_motion(SIZE, centre.expand(40, 2), radius, reach, draws(10))
    steps = max(flow.diff(dim=2).abs().max(), flow.diff(dim=3).abs().max()) / STEP
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
    flow = compose_pairs(photos, 60, (64, 64), max_motion, draws(4), OFF).flow
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


@pytest.mark.parametrize("holed", [0.0, 1.0])
def test_shapes_are_inside_one_radius_and_not_empty(draws, holed):
    made = random_shapes(40, draws(5), holed)
    ticks = torch.linspace(-shapes.REACH, shapes.REACH, made.shape[1])
    far = torch.hypot(ticks[:, None], ticks[None, :]) > 1.05
    assert (made[:, far] < 0).all()
    areas = (made > 0).float().mean((1, 2))
    assert (areas > 0).float().mean() > 0.7
    assert areas.max() < torch.pi / (2 * shapes.REACH) ** 2


def test_the_distance_to_a_square_is_exact():
    square = torch.tensor([[[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]])
    points = torch.tensor([[0.0, 0.0], [0.5, 0.0], [2.0, 0.0], [2.0, 2.0], [-1.0, 3.0]])
    wanted = torch.tensor([[1.0, 0.5, -1.0, -(2.0**0.5), -2.0]])
    torch.testing.assert_close(shapes._inside_distance(points, square), wanted)
