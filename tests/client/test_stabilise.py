"""Stabilising shakes that are known, in numbers and in pixels."""

import cv2
import numpy as np
import pytest
from mcjepa_client import AnalyzeResult, FlowResult, InputError, stabilise

HEIGHT, WIDTH = 60, 80
CENTRE = np.array([39.5, 29.5])


def poses(path, angles=None):
    """(N, 2, 3) matrices from scene to frames of a camera: shift (N, 2) px, turn (N,) about the centre."""
    angles = np.zeros(len(path)) if angles is None else angles
    cos, sin = np.cos(angles), np.sin(angles)
    turns = np.stack([cos, -sin, sin, cos], axis=1).reshape(-1, 2, 2)
    shifts = path + CENTRE - turns @ CENTRE
    return np.concatenate([turns, shifts[..., None]], axis=2)


def square(matrices):
    """(N, 2, 3) as (N, 3, 3)."""
    return np.concatenate([matrices, np.tile([[[0.0, 0, 1]]], (len(matrices), 1, 1))], axis=1)


def results(matrices, size=(HEIGHT, WIDTH)):
    """The flows between frames that a camera took at these poses."""
    y, x = np.mgrid[: size[0], : size[1]]
    for first, second in zip(square(matrices)[:-1], square(matrices)[1:], strict=True):
        motion = (second @ np.linalg.inv(first))[:2]
        moved = np.stack([x, y, np.ones_like(x)], axis=-1) @ motion.T
        yield FlowResult((moved - np.dstack([x, y])).astype(np.float32))


def seen_path(plan, matrices):
    """(N, 2) where the steady frames show the scene's centre, px."""
    return (square(plan.matrices) @ square(matrices) @ [*CENTRE, 1])[:, :2]


def shake(frames, scale, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(scale=scale, size=(frames, 2)), rng.normal(scale=scale / 200, size=frames)


def test_a_still_camera_and_an_even_pan_are_left_as_they_are():
    for speed in ((0, 0), (2, -0.5)):
        plan = stabilise(results(poses(np.arange(40)[:, None] * speed)))
        assert len(plan) == 40
        assert plan.zoom == pytest.approx(1, abs=1e-5)
        assert np.allclose(plan.matrices, np.eye(2, 3), atol=1e-3)


def test_shake_goes_and_the_pan_stays():
    pan = np.arange(80)[:, None] * [1.5, 0.3]
    jitter, turns = shake(80, 1.5)
    matrices = poses(pan + jitter, turns)
    plan = stabilise(results(matrices), smoothing=10)
    middle = slice(15, -15)
    path = seen_path(plan, matrices)[middle]
    before = np.abs(np.diff((pan + jitter)[middle], 2, axis=0)).mean()
    after = np.abs(np.diff(path, 2, axis=0)).mean()
    assert after < before / 15
    assert np.abs(np.diff(path, axis=0).mean(axis=0) / plan.zoom - [1.5, 0.3]).max() < 0.1


def test_a_frame_goes_to_the_weighted_average_of_its_neighbours():
    """Against a loop over products of the 3 x 3 matrices, away from the ends."""
    jitter, turns = shake(31, 2)
    plan = stabilise(results(poses(jitter, 10 * turns)), smoothing=3, max_crop=0.9)
    steps = square(np.stack([motion.matrix for motion in plan.motions]))
    weights = np.exp(-0.5 * (np.arange(-9, 10) / 3) ** 2)
    enlarge = np.array([[plan.zoom, 0, 0], [0, plan.zoom, 0], [0, 0, 1]])
    enlarge[:2, 2] = CENTRE * (1 - plan.zoom)
    for frame in range(9, 22):
        average = np.eye(3) * weights[9]
        for k in range(1, 10):
            ahead = np.linalg.multi_dot([np.eye(3), *steps[frame : frame + k][::-1]])
            behind = np.linalg.inv(np.linalg.multi_dot([np.eye(3), *steps[frame - k : frame][::-1]]))
            average += weights[9 + k] * ahead + weights[9 - k] * behind
        expected = enlarge @ (average / weights.sum())
        assert np.allclose(plan.matrices[frame], expected[:2], atol=1e-9)


def test_frames_of_a_still_scene_become_alike():
    scene = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (100, 120, 3), np.uint8), (0, 0), 2)
    matrices = poses(-20 + np.concatenate([shake(40, 2)[0]]), shake(40, 2)[1])
    frames = [cv2.warpAffine(scene, matrix, (WIDTH, HEIGHT)) for matrix in matrices]
    plan = stabilise(results(matrices), smoothing=10)
    steady = [plan.apply(index, frame) for index, frame in enumerate(frames)]
    assert steady[0].shape == frames[0].shape
    spread, steady_spread = (np.std(np.stack(images)[10:-10], axis=0).mean() for images in (frames, steady))
    assert steady_spread < spread / 3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [0.5, 4, 20])
def test_the_crop_is_within_its_limit_and_leaves_no_border(scale, seed):
    jitter, turns = shake(50, scale, seed)
    plan = stabilise(results(poses(jitter, turns)), smoothing=5, max_crop=0.25)
    assert 1 <= plan.zoom <= 1 / 0.75 + 1e-3
    white = np.full((HEIGHT, WIDTH), 255, np.float32)
    for matrix in plan.matrices:
        covered = cv2.warpAffine(white, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderValue=0)
        assert covered.min() > 240  # OpenCV takes steps of 1/32 px


def test_no_crop_at_all_means_no_steadying():
    jitter, turns = shake(30, 3)
    plan = stabilise(results(poses(jitter, turns)), max_crop=0)
    assert plan.zoom == pytest.approx(1, abs=1e-4)
    assert np.allclose(plan.matrices, np.eye(2, 3), atol=0.01)


def test_nothing_is_smoothed_across_a_cut():
    """A still shot, a cut, and a shaky shot: the still one must stay as it is."""
    still = list(results(poses(np.zeros((30, 2)))))
    rng = np.random.default_rng(0)
    cut = FlowResult(rng.uniform(-40, 40, (HEIGHT, WIDTH, 2)).astype(np.float32))
    shaky = list(results(poses(shake(30, 2)[0])))
    plan = stabilise([*still, cut, *shaky])
    assert len(plan) == 60
    assert plan.motions[29].inliers < 0.15
    assert np.ptp(plan.matrices[:30], axis=0).max() < 1e-9  # only the common zoom
    assert np.ptp(plan.matrices[30:], axis=0).max() > 1


def test_occluded_vectors_do_not_count():
    flow = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    flow[:, :50] = 9, 9
    hidden = flow[..., 0] > 0
    plan = stabilise([FlowResult(flow, occlusion=hidden)] * 3 + [FlowResult(0 * flow)] * 3)
    assert np.allclose(plan.matrices, np.eye(2, 3), atol=1e-3)


def test_a_clip_is_a_source():
    flows = np.stack([pair.flow for pair in results(poses(shake(10, 1)[0]))])
    by_clip = stabilise(AnalyzeResult(flows, np.eye(10, dtype=np.float32)))
    assert np.array_equal(by_clip.matrices, stabilise(results(poses(shake(10, 1)[0]))).matrices)


@pytest.mark.parametrize("frames", [2, 3])
def test_short_videos(frames):
    plan = stabilise(results(poses(shake(frames, 1)[0])), smoothing=200)
    assert len(plan) == frames
    assert np.isfinite(plan.matrices).all()


def test_flow_that_makes_no_sense_does_no_harm():
    """Each frame twice as large as the one before, turned round, then nothing known."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    zoom = FlowResult(np.dstack([0.9 * x, 0.9 * y]))
    turned = FlowResult(np.dstack([WIDTH - 2 * x, HEIGHT - 2 * y]))
    unknown = FlowResult(np.full((HEIGHT, WIDTH, 2), np.nan, np.float32))
    plan = stabilise([zoom] * 30 + [turned] * 5 + [unknown] + [zoom] * 3, smoothing=200)
    assert np.isfinite(plan.matrices).all()
    assert 1 <= plan.zoom < 1.26


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smoothing": 0}, "smoothing: expected more than 0 and at most 200 frames, got 0"),
        ({"smoothing": float("nan")}, "smoothing"),
        ({"smoothing": 1e9}, "smoothing"),
        ({"max_crop": 1}, "max_crop: expected 0 to less than 1, got 1"),
        ({"max_crop": -0.1}, "max_crop"),
        ({"max_crop": float("nan")}, "max_crop"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        stabilise(results(poses(np.zeros((3, 2)))), **options)


def test_bad_results_and_frames_are_refused():
    with pytest.raises(InputError, match="results: there is no flow"):
        stabilise([])
    sizes = [*results(poses(np.zeros((2, 2)))), *results(poses(np.zeros((2, 2))), (20, 20))]
    with pytest.raises(InputError, match=r"results\[1\]\.flow: expected size"):
        stabilise(sizes)
    plan = stabilise(results(poses(np.zeros((3, 2)))))
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for index in (-1, 3):
        with pytest.raises(InputError, match=f"index: expected 0 to 2, got {index}"):
            plan.apply(index, frame)
    with pytest.raises(InputError, match=r"image: expected size \(60, 80\)"):
        plan.apply(0, frame[1:])
    with pytest.raises(InputError, match="image: expected dtype uint8"):
        plan.apply(0, frame.astype(float))
