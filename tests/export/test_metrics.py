"""Flow metrics against loops over pixels and against cases known by hand."""

import math

import numpy as np
import pytest
from mcjepa.metrics import epe, fl_all, px1, px3


def loop(flow: np.ndarray, gt: np.ndarray, valid: np.ndarray) -> tuple[float, float, float, float]:
    errors, far, beyond1, beyond3 = [], 0, 0, 0
    for y in range(gt.shape[0]):
        for x in range(gt.shape[1]):
            if valid[y, x]:
                error = math.dist(flow[y, x], gt[y, x])
                errors.append(error)
                far += error > 3 and error / math.hypot(*gt[y, x]) > 0.05
                beyond1 += error > 1
                beyond3 += error > 3
    return sum(errors) / len(errors), *(100 * count / len(errors) for count in (far, beyond1, beyond3))


def test_all_agree_with_a_loop():
    rng = np.random.default_rng(0)
    gt = rng.normal(0, 60, (17, 23, 2)).astype(np.float32)
    flow = gt + rng.normal(0, 3, gt.shape).astype(np.float32)
    valid = rng.random(gt.shape[:2]) < 0.6
    flow[~valid] = np.nan  # must not matter
    want = loop(flow, gt, valid)
    assert 5 < want[1] < want[2] < 99  # the case tells the rules apart
    assert [metric(flow, gt, valid) for metric in (epe, fl_all, px1, px3)] == pytest.approx(want)


@pytest.mark.parametrize(
    ("true", "error", "outlier"),
    [
        (0.0, 2.9, 0),
        (0.0, 3.1, 100),
        (100.0, 4.9, 0),
        (100.0, 5.1, 100),
        (10.0, 2.9, 0),
        (0.0, math.nan, 100),
    ],
)
def test_fl_counts_what_is_off_by_3_px_and_5_per_cent(true, error, outlier):
    gt = np.zeros((1, 1, 2), np.float32)
    gt[..., 0] = true
    flow = gt + np.float32([0, error])
    assert fl_all(flow, gt, np.ones((1, 1), bool)) == outlier


def test_wrong_shapes_and_nothing_valid_are_errors():
    flow = np.zeros((3, 4, 2), np.float32)
    with pytest.raises(ValueError, match="no pixel has a known flow"):
        epe(flow, flow, np.zeros((3, 4), bool))
    with pytest.raises(ValueError, match="do not fit together"):
        epe(flow, flow[:2], np.ones((3, 4), bool))
    with pytest.raises(ValueError, match="do not fit together"):
        px1(flow.transpose(2, 0, 1), flow.transpose(2, 0, 1), np.ones((3, 4), bool))
