"""The forward-backward check against a naive loop and on cases that are known."""

import numpy as np
from mcjepa_server.imaging.occlusion import occlusion_mask


def constant(dx, dy, shape=(12, 20)):
    return np.broadcast_to(np.array([dx, dy], np.float32), (*shape, 2)).copy()


def test_no_motion_is_nowhere_occluded():
    assert not occlusion_mask(constant(0, 0), constant(0, 0)).any()


def test_a_consistent_shift_loses_only_what_leaves_the_frame():
    mask = occlusion_mask(constant(3, -2), constant(-3, 2))
    expected = np.zeros((12, 20), bool)
    expected[:, -3:] = True
    expected[:2] = True
    np.testing.assert_array_equal(mask, expected)


def test_flows_that_contradict_each_other_are_occluded():
    assert occlusion_mask(constant(1, 0), constant(1, 0)).all()


def test_against_a_naive_loop():
    rng = np.random.default_rng(0)
    flow12 = np.rint(rng.normal(scale=3, size=(12, 20, 2))).astype(np.float32)  # whole px: no interpolation
    flow21 = rng.normal(scale=3, size=(12, 20, 2)).astype(np.float32)
    expected = np.ones((12, 20), bool)
    for y in range(12):
        for x in range(20):
            tx, ty = int(x + flow12[y, x, 0]), int(y + flow12[y, x, 1])
            if 0 <= tx < 20 and 0 <= ty < 12:
                forward, backward = flow12[y, x], flow21[ty, tx]
                bound = 0.01 * (forward @ forward + backward @ backward) + 0.5
                expected[y, x] = np.sum((forward + backward) ** 2) > bound
    np.testing.assert_array_equal(occlusion_mask(flow12, flow21), expected)
