"""Refinement: fractions of a pixel from the images, whatever their light; no more where they say nothing."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from mcjepa import ops
from mcjepa.model.refinement import Refinement, mean_around, smoothness_weight
from torch import Tensor

H, W = 64, 96  # of the grey frames; flow comes at half of that


@pytest.fixture
def refine() -> Refinement:
    return Refinement(max_flow=512.0)


def scene(flow: Tensor) -> Tensor:
    """Grey waves (1, 1, H, W) in 0 .. 255, 6 to 20 px long, where `flow` (1, 2, H, W) px has taken them."""
    g = torch.Generator().manual_seed(0)
    length = 6 + 14 * torch.rand(24, generator=g)
    angle, phase = 2 * math.pi * torch.rand(2, 24, generator=g)
    x, y = (ops.pixel_grid(flow) - flow)[0].double()  # waves move rigidly: no need to invert the flow
    along = angle.cos()[:, None, None] * x + angle.sin()[:, None, None] * y
    waves = torch.sin(2 * math.pi / length[:, None, None] * along + phase[:, None, None]).sum(0)
    return (128 + 16 * waves).clamp(0, 255).float()[None, None]


def constant(dx: float, dy: float, h: int = H, w: int = W) -> Tensor:
    return torch.tensor([dx, dy]).reshape(1, 2, 1, 1).expand(1, 2, h, w).clone()


def middle(flow: Tensor) -> Tensor:
    return flow[..., 8:-8, 8:-8]


def test_a_shift_known_to_a_pixel_becomes_known_to_hundredths(refine):
    frame1, frame2 = scene(constant(0, 0)), scene(constant(2.3, -1.4))
    flow = constant(3.0, -1.0)
    for _ in range(6):
        flow = refine.step(frame1, frame2, flow, 6)
    error = (middle(flow) - middle(constant(2.3, -1.4))).norm(dim=1)
    assert error.median() < 0.05
    assert error.quantile(0.95) < 0.2


def test_refinement_goes_from_stride_8_to_full_resolution(refine):
    """Frames moved by (4.6, -2.8) px, which is (2.3, -1.4) px of the grey frames."""
    frame1, frame2 = scene(constant(0, 0)), scene(constant(2.3, -1.4))
    coarse = constant(0.75, -0.45, H // 4, W // 4)  # (6, -3.6) px
    flow = refine(frame1, frame2, coarse)
    assert flow.shape == (1, 2, 2 * H, 2 * W)
    error = (flow[..., 16:-16, 16:-16] - constant(4.6, -2.8, 2 * H - 32, 2 * W - 32)).norm(dim=1)
    assert error.median() < 0.2 < math.hypot(1.4, 0.8) / 5


def test_no_component_is_beyond_the_limit():
    frame1, frame2 = scene(constant(0, 0)), scene(constant(2.3, -1.4))
    flow = Refinement(max_flow=3.0)(frame1, frame2, constant(0.75, -0.45, H // 4, W // 4))
    assert flow[:, 0].max() == pytest.approx(3.0)
    assert flow.abs().max() <= 3.0 + 1e-6


def test_light_that_changes_everywhere_alike_changes_nothing(refine):
    frame1, frame2 = scene(constant(0, 0)), scene(constant(0.8, 0.3))
    plain = refine.step(frame1, frame2, constant(0, 0), 6)
    brighter = refine.step(frame1, frame2 + 40.0, constant(0, 0), 6)
    assert (middle(plain) - middle(constant(0.8, 0.3))).norm(dim=1).median() < 0.2
    torch.testing.assert_close(brighter, plain, rtol=0, atol=1e-3)


def test_where_frames_say_nothing_a_flow_stays(refine):
    blank, flow = torch.full((1, 1, H, W), 77.0), constant(12.5, -3.25)
    torch.testing.assert_close(refine.step(blank, blank, flow, 6), flow, rtol=0, atol=1e-4)


def test_the_border_of_a_motion_stays_sharp(refine):
    """Two halves that move apart by 4 px: within 4 px of the border at most do vectors give way."""
    flow = constant(2.0, 0.0)
    flow[..., : W // 2] *= -1
    frame1, frame2 = scene(constant(0, 0)), scene(flow)
    refined = refine.step(frame1, frame2, flow, 6)
    error = (refined - flow).norm(dim=1)
    away = torch.cat([error[..., 8:-8, 8 : W // 2 - 4], error[..., 8:-8, W // 2 + 4 : -8]], dim=-1)
    assert away.quantile(0.95) < 0.2


def test_enough_iterations_solve_the_equations_of_a_step(refine):
    """(A + D) u = A flow - b + mean(q u) at each position."""
    frame1, frame2 = (scene(constant(*shift)).double() for shift in ((0, 0), (0.8, 0.3)))
    flow = constant(0.3, 0.0).double()
    u = refine.double().step(frame1, frame2, flow, iterations=2000)
    diagonal, xy, b = refine.data_term(frame1, ops.warp(frame2, flow))
    q = smoothness_weight(flow)
    step = u - flow
    data = diagonal * step + xy * step.flip(1) + b
    smooth = mean_around(q) * u - mean_around(q * u)
    assert data.abs().max() > 1e-2
    torch.testing.assert_close(data, -smooth, rtol=0, atol=1e-6)


def test_derivatives_of_a_polynomial_are_exact(refine):
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(11.0), indexing="ij")
    first, second = 0.5 * x * x + 2 * x * y - y * y, 3 * x - 5 * y
    frames = torch.stack([first, first + second])[None]
    found = torch.nn.functional.conv2d(frames, refine.derivatives)[0].flatten(1)
    of_mean = torch.tensor([1.0, -2.0, 2.0, 3.0, -5.0])  # xx, yy, xy of the mean; x and y of the change
    torch.testing.assert_close(found, of_mean[:, None].expand_as(found))


def test_grey_is_the_luminance_of_2x2_pixels(refine):
    rgb = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)
    found = refine.grey(torch.from_numpy(rgb).permute(2, 0, 1)[None])[0, 0]
    grey = cv2.cvtColor(rgb.astype(np.float32), cv2.COLOR_RGB2GRAY)
    expected = cv2.resize(grey, (W // 2, H // 2), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-2)
