"""Warping and the forward-backward check: references, invariants, hostile flows. See also test_results."""

import numpy as np
import pytest
from mcjepa_client import FlowResult, InputError, occlusion, warp
from mcjepa_client._warp import sample

RNG = np.random.default_rng(0)


def constant(dx, dy, shape=(12, 20)):
    return np.tile(np.float32([dx, dy]), (*shape, 1))


def naive_warp(image, flow):
    """Whole pixels only, one by one."""
    height, width = image.shape[:2]
    out = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            sx, sy = x + int(flow[y, x, 0]), y + int(flow[y, x, 1])
            if 0 <= sx < width and 0 <= sy < height:
                out[y, x] = image[sy, sx]
    return out


@pytest.mark.parametrize("shape", [(12, 20), (12, 20, 3)])
def test_warp_against_a_loop(shape):
    image = RNG.integers(0, 256, shape, np.uint8)
    flow = np.rint(RNG.normal(scale=4, size=(12, 20, 2))).astype(np.float32)
    assert np.array_equal(warp(image, flow), naive_warp(image, flow))
    assert np.array_equal(FlowResult(flow).warp(image), warp(image, flow))


def test_warp_takes_views_and_lists():
    image, flow = RNG.integers(0, 256, (12, 20, 3), np.uint8), constant(2, 1)
    assert np.array_equal(warp(image[::-1, :, ::-1], flow), warp(image[::-1, :, ::-1].copy(), flow))
    assert np.array_equal(warp(image, flow.tolist()), warp(image, flow))


@pytest.mark.parametrize("far", [40, 70_000, 9.9e8, -9.9e8, 1e30, np.inf, np.nan])
def test_warp_of_a_flow_that_leads_nowhere_is_black(far):
    assert not warp(np.full((12, 20), 200, np.uint8), constant(far, 0)).any()


@pytest.mark.parametrize(
    ("image", "flow", "message"),
    [
        (np.zeros((12, 21), np.uint8), constant(0, 0), r"image: expected size \(12, 20\)"),
        (np.zeros((12, 20), np.float32), constant(0, 0), "image: expected dtype uint8"),
        (np.zeros((12, 20, 4), np.uint8), constant(0, 0), "image: expected shape"),
        (np.zeros((12, 20), np.uint8), np.zeros((12, 20, 3)), "flow: expected shape"),
        (np.zeros((12, 20), np.uint8), np.zeros((12, 20, 2), complex), "flow: expected real"),
    ],
)
def test_warp_refuses(image, flow, message):
    with pytest.raises(InputError, match=message):
        warp(image, flow)


def test_a_consistent_shift_hides_only_what_leaves_the_frame():
    expected = np.zeros((12, 20), bool)
    expected[:, -3:] = expected[:2] = True
    assert np.array_equal(occlusion(constant(3, -2), constant(-3, 2)), expected)


def test_flows_that_contradict_each_other_are_occluded():
    assert occlusion(constant(1, 0), constant(1, 0)).all()


def test_the_bound_is_that_of_the_paper():
    """|f + b|^2 <= 0.01 (|f|^2 + |b|^2) + 0.5: at f = 4 the way back may be 0.86 px off, not 0.88."""
    middle = np.s_[2:-2, 6:-6]
    assert not occlusion(constant(4, 0), constant(-4 + 0.86, 0))[middle].any()
    assert occlusion(constant(4, 0), constant(-4 + 0.88, 0))[middle].all()


def test_what_is_covered_by_a_moving_square_is_occluded():
    forward, backward = constant(0, 0, (40, 60)), constant(0, 0, (40, 60))
    forward[10:20, 10:20] = 6, 0
    backward[10:20, 16:26] = -6, 0
    hidden = occlusion(forward, backward)
    expected = np.zeros((40, 60), bool)
    expected[10:20, 20:26] = True  # the background that the square moves over
    assert np.array_equal(hidden, expected)


@pytest.mark.parametrize("unknown", [np.nan, np.inf, -np.inf, 1e10])
def test_unknown_flow_is_occluded_and_spoils_nothing_else(unknown):
    forward, backward = constant(0.25, 0), constant(-0.25, 0)
    expected = occlusion(forward, backward)
    forward[3, 4, 0] = unknown
    backward[6, 9, 1] = unknown
    expected[3, 4] = expected[6, 8:10] = True
    assert np.array_equal(occlusion(forward, backward), expected)


def test_occlusion_refuses_other_sizes():
    with pytest.raises(InputError, match=r"flow_backward: expected size \(12, 20\)"):
        occlusion(constant(0, 0), constant(0, 0, (12, 21)))
    with pytest.raises(InputError, match="flow: expected shape"):
        occlusion(np.zeros((12, 20)), constant(0, 0))


def test_sampling_between_pixels_is_exact():
    """A bilinear function is its own interpolation."""
    y, x = np.mgrid[:12, :20].astype(np.float32)
    flow = np.dstack([1 + 2 * x - 3 * y + 0.5 * x * y, x - y])
    points = RNG.uniform([0, 0], [19, 11], (200, 2))
    px, py = points.T
    expected = np.stack([1 + 2 * px - 3 * py + 0.5 * px * py, px - py], axis=1)
    assert np.allclose(sample(flow, points), expected, atol=1e-9)


def test_sampling_reaches_to_the_centres_of_the_border_and_no_further():
    flow = constant(1, 2)
    corners = np.array([[0, 0], [19, 0], [0, 11], [19, 11]], float)
    assert np.array_equal(sample(flow, corners), np.tile([1.0, 2.0], (4, 1)))
    outside = np.array([[-0.01, 5], [19.01, 5], [5, -0.01], [5, 11.01], [np.nan, 5], [np.inf, 5]])
    assert np.isnan(sample(flow, outside)).all()


def test_an_unknown_pixel_spoils_only_samples_it_takes_part_in():
    flow = constant(1, 2)
    flow[5, 5] = 1e10
    near = np.array([[5, 5], [4.5, 5], [5.9, 5.9]])
    assert np.isnan(sample(flow, near)).all()
    assert np.array_equal(sample(flow, np.array([[4, 5], [6, 5.5], [5, 4.0]])), np.tile([1.0, 2.0], (3, 1)))
