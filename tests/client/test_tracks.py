"""Tracks against motion that is known in closed form."""

import weakref

import numpy as np
import pytest
from mcjepa_client import AnalyzeResult, FlowResult, InputError, grid_points, tracks

SIZE = (80, 120)
CENTRE = 59.5 + 39.5j


def constant(dx, dy, size=SIZE):
    return np.tile(np.float32([dx, dy]), (*size, 1))


def turning(motion):
    """Flow of z -> motion * z about the centre, z = x + i y."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    z = x + 1j * y - CENTRE
    moved = motion * z - z
    return np.dstack([moved.real, moved.imag]).astype(np.float32)


def pair(forward, backward):
    return FlowResult(forward, backward=backward)


def test_points_follow_a_rotation_with_zoom_for_a_hundred_frames():
    motion = 0.997 * np.exp(0.02j)
    points = np.random.default_rng(0).uniform([35, 15], [85, 65], (50, 2))  # never out of the frame
    start = points @ [1, 1j] - CENTRE
    results = [pair(turning(motion), turning(1 / motion))] * 100
    tracked = list(tracks(points, results))
    assert [frame.index for frame in tracked] == list(range(101))
    for frame in tracked:
        z = motion**frame.index * start + CENTRE
        assert frame.visible.all()
        assert frame.points.dtype == np.float32
        assert np.abs(frame.points - np.stack([z.real, z.imag], axis=1)).max() < 0.001


def test_a_point_is_lost_when_something_moves_over_it_and_does_not_jump_on():
    """A square of 10 px moves by 3 px a frame over a still background."""

    def results():
        for step in range(8):
            forward, backward = constant(0, 0), constant(0, 0)
            left = 20 + 3 * step
            forward[30:40, left : left + 10] = 3, 0
            backward[30:40, left + 3 : left + 13] = -3, 0
            yield pair(forward, backward)

    on_the_square, before_it, elsewhere = [25, 35], [36.5, 35], [36.5, 60]
    tracked = list(tracks([on_the_square, before_it, elsewhere], results()))
    # The square's right edge covers x = 36.5 in the step from 35 to 38, the third.
    assert [frame.visible.tolist() for frame in tracked] == [[True, n < 3, True] for n in range(9)]
    assert np.array_equal(tracked[-1].points[0], [25 + 8 * 3, 35])
    assert np.isnan(tracked[-1].points[1]).all()
    assert np.array_equal(tracked[-1].points[2], elsewhere)


def test_a_point_that_leaves_the_frame_stays_lost():
    there, back = pair(constant(8, 0), constant(-8, 0)), pair(constant(-8, 0), constant(8, 0))
    tracked = list(tracks([[100, 40], [60, 40]], [there, there, there, back, back]))
    assert [frame.visible.tolist() for frame in tracked] == [[n < 3, True] for n in range(6)]


def test_points_outside_the_first_frame_or_on_unknown_flow_are_lost():
    forward = constant(0, 0)
    forward[20, 20] = np.nan
    first, second = tracks([[-1, 5], [5, 79.5], [20.5, 20], [22, 20]], [pair(forward, constant(0, 0))])
    assert first.visible.tolist() == [False, False, True, True]
    assert second.visible.tolist() == [False, False, False, True]


class Video:
    """Frames as Client.video gives them; the last has no flow."""

    def __init__(self, flow, flow_backward):
        self.flow, self.flow_backward = flow, flow_backward


def test_every_source_of_flow_gives_the_same():
    forward, backward = constant(2, 1), constant(-2, -1)
    pairs = [pair(forward, backward)] * 3
    clip = AnalyzeResult(
        np.stack([forward] * 3), np.eye(4, dtype=np.float32), backward=np.stack([backward] * 3)
    )
    video = [Video(forward, backward)] * 3 + [Video(None, None)]
    points = grid_points(SIZE, 16)
    for frames in zip(*(tracks(points, source) for source in (pairs, clip, iter(video))), strict=True):
        assert all(np.array_equal(frame.points, frames[0].points, equal_nan=True) for frame in frames)
        assert all(np.array_equal(frame.visible, frames[0].visible) for frame in frames)


def test_results_are_taken_one_at_a_time_and_let_go():
    alive = weakref.WeakSet()

    class Counted:
        """A result whose life can be watched."""

        def __init__(self):
            self.flow, self.flow_backward = constant(0, 0), constant(0, 0)
            alive.add(self)

    made = []

    def results():
        for index in range(50):
            made.append(index)
            yield Counted()

    for frame in tracks([[5, 5]], results()):
        assert len(made) == max(frame.index, 1)  # nothing is read ahead
        assert len(alive) <= 2


@pytest.mark.parametrize(("miss", "kept"), [(0.70, True), (0.72, False), (1.4, True), (1.6, False)])
def test_the_tolerance_is_what_the_way_back_may_miss(miss, kept):
    still = [pair(constant(0, 0), constant(miss, 0))]
    options = {"tolerance": 1.5} if miss > 1 else {}
    *_, last = tracks([[40, 40]], still, **options)
    assert last.visible.tolist() == [kept]


@pytest.mark.parametrize("tolerance", [0, -1, float("nan"), float("inf")])
def test_a_tolerance_out_of_range_is_refused(tolerance):
    with pytest.raises(InputError, match="tolerance: expected a positive number of px"):
        tracks([[1, 2]], [], tolerance=tolerance)


def test_no_points_and_no_results_are_no_error():
    assert [
        len(frame.points) for frame in tracks(np.empty((0, 2)), [pair(constant(0, 0), constant(0, 0))])
    ] == [0, 0]
    assert list(tracks([[1, 2]], [])) == []
    assert list(tracks([[1, 2]], [Video(None, None)])) == []


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([1, 2], r"points: expected numbers of shape \(P, 2\), got int64 \(2,\)"),
        ([[1, 2, 3]], r"points: .* \(1, 3\)"),
        ([["a", "b"]], "points: expected numbers"),
        ([[1, 2], [np.nan, 3]], r"points\[1\]: not finite"),
    ],
)
def test_bad_points_are_refused_at_once(points, message):
    with pytest.raises(InputError, match=message):
        tracks(points, [])


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([FlowResult(constant(0, 0))], r"results\[0\]: no backward flow .* direction='both'"),
        ([pair(constant(0, 0), constant(0, 0, (80, 121)))], r"results\[0\]\.flow_backward: expected size"),
        (
            [pair(constant(0, 0), constant(0, 0)), pair(constant(0, 0, (8, 9)), constant(0, 0, (8, 9)))],
            r"results\[1\]\.flow: expected size \(80, 120\) \(height, width\), got \(8, 9\)",
        ),
        ([Video(None, None), pair(constant(0, 0), constant(0, 0))], r"results\[0\]: only the last frame"),
    ],
)
def test_bad_results_are_refused_by_number(results, message):
    with pytest.raises(InputError, match=message):
        list(tracks([[1, 2]], results))


@pytest.mark.parametrize("size", [(80, 120), (1, 1), (7, 100), (33, 33)])
@pytest.mark.parametrize("step", [1, 8, 50])
def test_a_grid_is_even_and_inside(size, step):
    points = grid_points(size, step)
    assert points.dtype == np.float32
    x, y = np.unique(points[:, 0]), np.unique(points[:, 1])
    assert len(points) == len(x) * len(y)
    for places, length in ((x, size[1]), (y, size[0])):
        assert set(np.diff(places)) <= {step}
        before, after = places[0], length - 1 - places[-1]
        assert 0 <= after - before <= 1 or before == after
        assert max(before, after) < step


def test_a_grid_without_room_is_refused():
    with pytest.raises(InputError, match="grid_points"):
        grid_points((80, 120), 0)
    with pytest.raises(InputError, match="grid_points"):
        grid_points((0, 120), 8)
