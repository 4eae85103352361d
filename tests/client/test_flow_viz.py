"""Colours: known values of the wheel, and what scale, unknown pixels and legend do."""

import math

import numpy as np
import pytest
from mcjepa_client import InputError, flow_viz


def one_pixel(dx, dy, **options):
    return flow_viz.flow_to_color(np.array([[[dx, dy]]], np.float32), **options)[0, 0].tolist()


def reference_color(dx, dy, max_flow):
    """One pixel, as computecolor of the authors' colorcode.cpp computes it."""
    wheel = [(255, 255 * i // 15, 0) for i in range(15)]
    wheel += [(255 - 255 * i // 6, 255, 0) for i in range(6)]
    wheel += [(0, 255, 255 * i // 4) for i in range(4)]
    wheel += [(0, 255 - 255 * i // 11, 255) for i in range(11)]
    wheel += [(255 * i // 13, 0, 255) for i in range(13)]
    wheel += [(255, 0, 255 - 255 * i // 6) for i in range(6)]
    radius = math.hypot(dx, dy) / max_flow
    position = (math.atan2(-dy, -dx) / math.pi + 1) / 2 * (len(wheel) - 1)
    below = int(position)
    part = position - below
    color = []
    for first, second in zip(wheel[below], wheel[(below + 1) % len(wheel)], strict=True):
        value = (1 - part) * first / 255 + part * second / 255
        color.append(int(255 * (1 - radius * (1 - value) if radius <= 1 else value * 0.75)))
    return color


def test_wheel_has_the_authors_55_hues():
    wheel = flow_viz.color_wheel()
    assert wheel.shape == (55, 3)
    starts = [0, 15, 21, 25, 36, 49]
    assert wheel[starts].tolist() == [
        [255, 0, 0], [255, 255, 0], [0, 255, 0], [0, 255, 255], [0, 0, 255], [255, 0, 255],
    ]  # fmt: skip
    assert wheel[1].tolist() == [255, 17, 0]
    assert wheel[16].tolist() == [213, 255, 0]


def test_colors_equal_the_reference():
    flow = np.random.default_rng(0).normal(0, 10, (8, 8, 2)).astype(np.float32)
    picture = flow_viz.flow_to_color(flow, max_flow=12.0)
    expected = [[reference_color(*map(float, vector), 12.0) for vector in row] for row in flow]
    difference = np.abs(picture.astype(int) - expected)
    assert difference.max() <= 1  # the last digit of a float may fall on the other side of a whole number
    assert (difference > 0).mean() < 0.02


def test_no_motion_is_white_and_unknown_is_black():
    flow = np.zeros((1, 2, 2), np.float32)
    flow[0, 1] = 1e10
    assert flow_viz.flow_to_color(flow).tolist() == [[[255, 255, 255], [0, 0, 0]]]


def test_motion_to_the_right_is_red_and_to_the_left_cyan():
    assert one_pixel(5, 0) == [255, 0, 0]
    red, green, blue = one_pixel(-5, 0)
    assert red < 30
    assert min(green, blue) > 200


def test_default_scale_is_the_longest_known_vector():
    flow = np.zeros((1, 3, 2), np.float32)
    flow[0, 0], flow[0, 1], flow[0, 2] = (3, 4), (1, 0), (np.nan, 0)
    assert flow_viz.largest_motion(flow) == 5.0
    assert np.array_equal(flow_viz.flow_to_color(flow), flow_viz.flow_to_color(flow, max_flow=5.0))


def test_fixed_scale_gives_a_motion_the_same_color_in_every_frame():
    still, busy = np.zeros((2, 2, 2), np.float32), np.full((2, 2, 2), 30, np.float32)
    still[0, 0] = busy[0, 0] = (4, -3)
    pictures = [flow_viz.flow_to_color(flow, max_flow=40) for flow in (still, busy)]
    assert np.array_equal(pictures[0][0, 0], pictures[1][0, 0])


def test_beyond_the_scale_is_darker():
    assert one_pixel(10, 0, max_flow=5) == [191, 0, 0]


def test_all_unknown_is_all_black():
    assert not flow_viz.flow_to_color(np.full((3, 3, 2), np.nan, np.float32)).any()


@pytest.mark.parametrize("max_flow", [0, -1, math.nan, math.inf])
def test_impossible_scale_is_refused(max_flow):
    with pytest.raises(InputError, match="max_flow"):
        one_pixel(1, 1, max_flow=max_flow)


def test_legend_shows_each_direction_in_its_color_on_white():
    key = flow_viz.legend(101)
    assert key.shape == (101, 101, 3)
    assert key[0, 0].tolist() == [255, 255, 255]
    assert key[50, 50].tolist() == [255, 255, 255]
    red, green, blue = key[50, 96].tolist()  # near the rim, to the right
    assert red == 255
    assert max(green, blue) < 30


def test_picture_has_the_legend_in_its_corner_only():
    flow = np.tile(np.float32([3, 1]), (200, 300, 1))
    plain, picture = flow_viz.flow_to_color(flow), flow_viz.flow_picture(flow)
    changed = np.argwhere((plain != picture).any(axis=2))
    assert (changed.min(axis=0) >= [200 - 66, 300 - 66]).all()
    assert len(changed) > 1000
    assert np.array_equal(plain[-1, -1], picture[-1, -1])  # a disc, not a square


def test_small_picture_has_no_legend():
    flow = np.ones((60, 60, 2), np.float32)
    assert np.array_equal(flow_viz.flow_picture(flow), flow_viz.flow_to_color(flow))
