"""The camera's motion from flows whose motion is known."""

import numpy as np
import pytest
from mcjepa_client import InputError, camera_motion

SIZE = (120, 160)


def flow_of(matrix, size=SIZE):
    """The flow that a (2, 3) matrix makes."""
    y, x = np.mgrid[: size[0], : size[1]]
    moved = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.asarray(matrix, float).T
    return (moved - np.dstack([x, y])).astype(np.float32)


def similarity(scale, degrees, dx, dy):
    a = scale * np.exp(1j * np.deg2rad(degrees))
    return np.array([[a.real, -a.imag, dx], [a.imag, a.real, dy]])


def corner_error(found, expected):
    """How far the two motions are apart at the corners of the frame, px."""
    corners = np.array([[0, 0, 1], [159, 0, 1], [0, 119, 1], [159, 119, 1]])
    return np.abs(corners @ (found - expected).T).max()


MOTIONS = [
    similarity(1, 0, 0, 0),
    similarity(1, 0, -7.3, 4.1),
    similarity(1.03, 2, 5, -3),
    similarity(0.97, -4, 0, 9),
]


@pytest.mark.parametrize("matrix", MOTIONS)
def test_a_pure_camera_motion_is_found_exactly(matrix):
    found = camera_motion(flow_of(matrix))
    assert corner_error(found.matrix, matrix) < 0.001
    assert found.inliers == 1


@pytest.mark.parametrize("matrix", MOTIONS)
def test_noise_and_a_large_moving_object_do_not_count(matrix):
    rng = np.random.default_rng(0)
    flow = flow_of(matrix) + rng.normal(scale=0.3, size=(*SIZE, 2)).astype(np.float32)
    flow[20:100, 30:110] += (12, -5)  # a third of the frame
    found = camera_motion(flow)
    assert corner_error(found.matrix, matrix) < 0.25
    assert found.inliers == pytest.approx(2 / 3, abs=0.05)


def test_it_gives_the_same_each_time():
    flow = np.random.default_rng(0).normal(scale=2, size=(*SIZE, 2)).astype(np.float32)
    first, second = camera_motion(flow), camera_motion(flow)
    assert np.array_equal(first.matrix, second.matrix)
    assert first.inliers == second.inliers


def test_hidden_and_unknown_vectors_are_left_out():
    matrix = MOTIONS[2]
    flow = flow_of(matrix)
    hidden = np.zeros(SIZE, bool)
    hidden[:, :100] = True
    flow[:, :100] = 30, 30  # more than half, and consistent
    flow[:, 150:] = np.nan
    found = camera_motion(flow, hidden)
    assert corner_error(found.matrix, matrix) < 0.001
    assert found.inliers == 1


@pytest.mark.parametrize(
    "flow",
    [
        np.full((*SIZE, 2), np.nan),
        np.full((*SIZE, 2), 1e10),
        flow_of([[0, 0, 80], [0, 0, 60]]),  # all to one point
        flow_of([[9, 0, 0], [0, 9, 0]]),
        np.zeros((1, 2, 2)),  # two vectors would fit any motion
    ],
)
def test_where_there_is_none_it_says_so(flow):
    found = camera_motion(flow)
    assert np.array_equal(found.matrix, np.eye(2, 3))
    assert found.inliers == 0


@pytest.mark.parametrize("size", [(1, 3), (2, 2), (16, 16), (3, 2000), (2160, 3840)])
def test_any_size_will_do(size):
    found = camera_motion(np.tile(np.float32([2, -1]), (*size, 1)))
    assert np.allclose(found.matrix, [[1, 0, 2], [0, 1, -1]], atol=1e-4)


def test_other_shapes_are_refused():
    with pytest.raises(InputError, match="flow: expected shape"):
        camera_motion(np.zeros(SIZE))
    with pytest.raises(InputError, match=r"occlusion: expected shape \(120, 160\), got \(3, 3\)"):
        camera_motion(np.zeros((*SIZE, 2)), np.zeros((3, 3), bool))
