"""Known-motion pairs: the flow is the truth about the two frames, also where layers hide each other."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from mcjepa.data import known_motion
from mcjepa.data.known_motion import KnownMotionPair, compose_pair, random_motion

SIZE = (96, 144)
PHOTO = (100, 150)
SEEDS = range(12)

Photo = Callable[[], np.ndarray]


@pytest.fixture
def no_photometric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_motion, "photometric", lambda img1, img2, _rng: (img1, img2))


@pytest.fixture
def textured(texture) -> Callable[[], Photo]:
    photos = [texture(*PHOTO, seed) for seed in range(8)]

    def fresh() -> Photo:
        numbers = iter(range(8))
        return lambda: photos[next(numbers)]

    return fresh


def one_colour_each() -> Photo:
    """Photo n is all of the value 20 + 30 n: a pair of them shows which layer is where."""
    numbers = iter(range(8))
    return lambda: np.full((*PHOTO, 3), 20 + 30 * next(numbers), np.uint8)


def compose(photo: Photo, seed: int, max_motion: float = 20.0) -> KnownMotionPair:
    return compose_pair(photo, SIZE, max_motion, np.random.default_rng(seed))


def targets(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    xs = np.arange(SIZE[1], dtype=np.float32)[None] + flow[..., 0]
    ys = np.arange(SIZE[0], dtype=np.float32)[:, None] + flow[..., 1]
    return xs, ys


def warp(img2: np.ndarray, flow: np.ndarray) -> np.ndarray:
    return cv2.remap(img2, *targets(flow), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(float)


def visible(seed: int, flow: np.ndarray) -> np.ndarray:
    """Where the layer that a pixel of frame 1 shows is seen where the flow points, soft rims left out."""
    layers = compose(one_colour_each(), seed)
    assert np.array_equal(layers.flow, flow)  # the flow does not depend on what the photos show
    xs, ys = targets(flow)
    inside = (xs >= 0) & (xs <= SIZE[1] - 1) & (ys >= 0) & (ys <= SIZE[0] - 1)
    return inside & (abs(warp(layers.img2, flow) - layers.img1).max(-1) <= 1)


@pytest.mark.usefixtures("no_photometric")
def test_frame_2_warped_by_the_flow_is_frame_1_where_it_is_visible(textured):
    still, warped, shares = [], [], []
    for seed in SEEDS:
        pair = compose(textured(), seed)
        seen = visible(seed, pair.flow)
        gap = abs(warp(pair.img2, pair.flow) - pair.img1).mean(-1)[seen]
        assert gap.mean() < 1.5
        assert np.quantile(gap, 0.99) < 15
        warped.append(gap.mean())
        still.append(abs(pair.img2.astype(float) - pair.img1).mean(-1)[seen].mean())
        shares.append(seen.mean())
    assert np.mean(warped) < 0.1 * np.mean(still)
    assert 0.7 < np.mean(shares) < 1


@pytest.mark.usefixtures("no_photometric")
def test_some_of_frame_1_is_hidden_in_frame_2_and_has_the_flow_of_its_own_layer(monkeypatch):
    motions = []

    def constant(size, _centre, _radius, _max_motion, rng):
        motions.append(rng.integers(-12, 13, 2).astype(np.float32))
        return np.broadcast_to(motions[-1], (*size, 2)).copy()

    monkeypatch.setattr(known_motion, "random_motion", constant)
    hidden = 0
    for seed in SEEDS:
        motions.clear()
        pair = compose(one_colour_each(), seed)
        for layer, motion in enumerate(motions):
            mine = (pair.img1 == 20 + 30 * layer).all(-1).astype(np.uint8)
            mine = (
                cv2.erode(mine, np.ones((3, 3))) == 1
            )  # at rims two layers may blend into a third one's colour
            with_camera = motion if layer == 0 else np.float32(0.3) * motion + motions[0]
            flows = np.unique(pair.flow[mine], axis=0)
            assert len(flows) <= 1
            assert not mine.any() or np.allclose(flows[0], motion) or np.allclose(flows[0], with_camera)
            xs, ys = (t.round().astype(int) for t in targets(pair.flow))
            arrives = mine & (xs >= 0) & (xs < SIZE[1]) & (ys >= 0) & (ys < SIZE[0])
            hidden += int((pair.img2[ys[arrives], xs[arrives], 0].astype(int) - 20 - 30 * layer > 15).sum())
    assert hidden > 200  # covered by a layer that lies higher, in frame 2 only


def test_a_pair_is_a_function_of_the_seed(textured):
    first, again, other = compose(textured(), 3), compose(textured(), 3), compose(textured(), 4)
    for name in ("img1", "img2", "flow"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.flow, other.flow)


def test_shapes_and_types(textured):
    pair = compose(textured(), 0)
    assert (pair.img1.shape, pair.img1.dtype) == ((*SIZE, 3), np.uint8)
    assert (pair.img2.shape, pair.img2.dtype) == ((*SIZE, 3), np.uint8)
    assert (pair.flow.shape, pair.flow.dtype) == ((*SIZE, 2), np.float32)


@pytest.mark.parametrize("max_motion", [5.0, 60.0])
def test_displacements_reach_about_max_motion(textured, max_motion):
    lengths = [np.linalg.norm(compose(textured(), seed, max_motion).flow, axis=-1) for seed in range(30)]
    largest = [length.max() for length in lengths]
    assert 0.5 * max_motion < max(largest) < 3 * max_motion
    assert np.median(largest) < max_motion  # still scenes are common
    assert min(largest) < 0.1 * max_motion


def test_without_motion_nothing_moves(textured, monkeypatch):
    monkeypatch.setattr(known_motion, "photometric", lambda img1, img2, _rng: (img1, img2))
    for seed in range(4):
        pair = compose(textured(), seed, 0.0)
        assert abs(pair.flow).max() < 1e-4
        assert abs(pair.img1.astype(int) - pair.img2).max() <= 12  # two ways of resampling
        assert abs(pair.img1.astype(int) - pair.img2).mean() < 0.5


def test_a_motion_is_smooth():
    for seed in range(20):
        flow = random_motion(SIZE, (70.0, 40.0), 50.0, 10.0, np.random.default_rng(seed))
        steps = max(abs(np.diff(flow, axis=0)).max(), abs(np.diff(flow, axis=1)).max())
        assert steps < 1.0
        assert np.isfinite(flow).all()


@pytest.mark.parametrize("shape", [(20, 30), (300, 40), (64, 64)])
def test_photos_of_any_size_and_shape_fill_the_frame(texture, shape):
    photo = texture(*shape, 1)
    pair = compose(lambda: photo, 5)
    assert pair.img1.shape == (*SIZE, 3)
    assert pair.img1.std() > 5
