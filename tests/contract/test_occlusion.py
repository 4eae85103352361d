"""The client's check of occlusion is the server's."""

import numpy as np
import pytest
from mcjepa_client import occlusion
from mcjepa_server.imaging.occlusion import occlusion_mask


@pytest.mark.parametrize("scale", [0.3, 3, 30])
def test_both_give_the_same_mask(scale):
    rng = np.random.default_rng(0)
    flow12 = rng.normal(scale=scale, size=(40, 60, 2)).astype(np.float32)
    flow21 = -flow12 + rng.normal(scale=0.4, size=(40, 60, 2)).astype(np.float32)
    expected = occlusion_mask(flow12, flow21)
    assert expected.any()
    assert not expected.all()
    np.testing.assert_array_equal(occlusion(flow12, flow21), expected)
