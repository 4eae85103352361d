"""Tensor operations against naive loops, and their conventions against each other."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mcjepa import ops
from torch import Tensor


def bilinear(image: Tensor, x: float, y: float) -> Tensor:
    """Value (C,) of `image` (C, H, W) at (x, y), both clamped to the frame."""
    h, w = image.shape[-2:]
    x, y = min(max(x, 0.0), w - 1.0), min(max(y, 0.0), h - 1.0)
    x0, y0 = min(int(x), w - 2), min(int(y), h - 2)
    a, b = x - x0, y - y0
    upper = (1 - a) * image[:, y0, x0] + a * image[:, y0, x0 + 1]
    lower = (1 - a) * image[:, y0 + 1, x0] + a * image[:, y0 + 1, x0 + 1]
    return (1 - b) * upper + b * lower


def naive_warp(image: Tensor, flow: Tensor) -> Tensor:
    out = torch.empty(image.shape[0], image.shape[1], *flow.shape[-2:], dtype=image.dtype)
    for n in range(flow.shape[0]):
        for y in range(flow.shape[2]):
            for x in range(flow.shape[3]):
                dx, dy = flow[n, :, y, x].tolist()
                out[n, :, y, x] = bilinear(image[n], x + dx, y + dy)
    return out


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def constant_flow(dx: float, dy: float, h: int, w: int) -> Tensor:
    return torch.tensor([dx, dy]).reshape(1, 2, 1, 1).expand(1, 2, h, w).contiguous()


def test_pixel_grid_counts_x_to_the_right_and_y_down():
    grid = ops.pixel_grid(torch.zeros(5, 7, 3, 4))
    assert grid.shape == (1, 2, 3, 4)
    assert grid[0, :, 2, 3].tolist() == [3.0, 2.0]


def test_warp_equals_a_bilinear_loop_with_clamped_borders(generator):
    image = torch.rand(2, 3, 5, 7, generator=generator, dtype=torch.float64)
    flow = 8 * torch.rand(2, 2, 5, 7, generator=generator, dtype=torch.float64) - 4  # many leave the frame
    torch.testing.assert_close(ops.warp(image, flow), naive_warp(image, flow))


@pytest.mark.parametrize(("dx", "dy"), [(2, 0), (0, 3), (-1, 2)])
def test_warp_undoes_a_known_shift(generator, dx, dy):
    img1 = torch.rand(1, 3, 10, 12, generator=generator)
    img2 = torch.roll(img1, shifts=(dy, dx), dims=(2, 3))  # the point at (x, y) went to (x + dx, y + dy)
    warped = ops.warp(img2, constant_flow(dx, dy, 10, 12))
    inner = ops.inside(constant_flow(dx, dy, 10, 12)).bool().expand_as(img1)
    torch.testing.assert_close(warped[inner], img1[inner], atol=1e-5, rtol=0)
    assert inner.float().mean() > 0.5


@pytest.mark.parametrize("size", [(5, 7), (2, 2), (64, 3)])
def test_warp_is_exported_as_the_same_function(generator, monkeypatch, size):
    feats = torch.randn(3, 4, *size, generator=generator)
    flow = 4 * torch.randn(3, 2, *size, generator=generator)
    expected = ops.warp(feats, flow)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(ops.warp(feats, flow), expected, rtol=1e-4, atol=1e-4)


def test_warp_has_the_right_gradients(generator):
    image = torch.rand(1, 2, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    flow = (0.4 + 0.2 * torch.rand(1, 2, 4, 5, generator=generator, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(ops.warp, (image, flow))


def test_inside_is_exact_at_the_border_pixels():
    flow = torch.zeros(1, 2, 3, 4)
    flow[0, 0, 0, 0], flow[0, 0, 0, 1] = 3.0, 2.01  # to the last column; just beyond it
    flow[0, 1, 2, 0], flow[0, 1, 2, 1] = -2.0, -2.01  # to the first row; just above it
    expected = torch.ones(3, 4)
    expected[0, 1] = expected[2, 1] = 0
    assert torch.equal(ops.inside(flow)[0, 0], expected)


@pytest.mark.parametrize("radius", [1, 2])
def test_local_correlation_equals_a_loop(generator, radius):
    f1, f2 = torch.rand(2, 2, 3, 4, 5, generator=generator)
    corr = ops.local_correlation(f1, f2, radius)
    side = 2 * radius + 1
    assert corr.shape == (2, side * side, 4, 5)
    for y in range(4):
        for x in range(5):
            for dy in range(-radius, radius + 1):
                for dx in range(-radius, radius + 1):
                    channel = (dy + radius) * side + dx + radius
                    within = 0 <= y + dy < 4 and 0 <= x + dx < 5
                    expected = (
                        (f1[:, :, y, x] * f2[:, :, y + dy, x + dx]).sum(1) if within else torch.zeros(2)
                    )
                    torch.testing.assert_close(corr[:, channel, y, x], expected)


@pytest.mark.parametrize(
    ("radius", "block", "size"), [(4, 2, (2, 4)), (4, 8, (8, 16)), (2, 8, (12, 8)), (4, 4, (4, 4))]
)
def test_matching_is_exported_as_the_same_function(generator, monkeypatch, radius, block, size):
    f1, f2 = torch.randn(2, 3, 5, *size, generator=generator)
    args = (f1, f2, radius, block, torch.tensor(2.0))
    expected = ops.match(*args)
    assert torch.equal(expected[0], ops.local_correlation(f1, f2, radius, block))
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(ops.match(*args), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (2, -1), (-2, 2), (1, 0), (0, 1)])
def test_the_correlation_of_a_shifted_frame_peaks_at_the_shift_that_its_channel_stands_for(generator, dx, dy):
    f1 = torch.nn.functional.normalize(torch.randn(1, 16, 9, 11, generator=generator), dim=1)
    f2 = torch.roll(f1, shifts=(dy, dx), dims=(2, 3))
    best = ops.local_correlation(f1, f2, 2).argmax(1)[0]
    found = ops.shift_vectors(2, f1)[best]  # (H, W, 2)
    assert torch.equal(found[2:-2, 2:-2], torch.tensor([float(dx), float(dy)]).expand(5, 7, 2))


def test_features_have_length_1_or_none(generator):
    feats = torch.randn(2, 5, 3, 4, generator=generator)
    feats[1, :, 2, 3] = 0.0
    torch.testing.assert_close(ops.normalise(feats), F.normalize(feats, dim=1))
    grown = feats.clone().requires_grad_()
    ops.normalise(grown).sum().backward()
    assert grown.grad.isfinite().all()


def test_bilinear_upsampling_doubles_the_values_of_a_constant_flow():
    up = ops.upsample_flow_bilinear(constant_flow(1.5, -0.5, 3, 4))
    torch.testing.assert_close(up, constant_flow(3.0, -1.0, 6, 8))
    up = ops.upsample_flow_bilinear(constant_flow(1.5, -0.5, 3, 4), 4)
    torch.testing.assert_close(up, constant_flow(6.0, -2.0, 12, 16))


def test_bilinear_upsampling_keeps_the_motion_of_a_zoom():
    """A flow that is linear in the position, seen by pixels twice as large, is the same motion."""
    fine = 0.1 * (ops.pixel_grid(torch.zeros(8, 12)) - 5.5)
    coarse = torch.nn.functional.avg_pool2d(fine, 2) / 2
    torch.testing.assert_close(ops.upsample_flow_bilinear(coarse)[..., 1:-1, 1:-1], fine[..., 1:-1, 1:-1])


def test_occlusion_of_a_moving_square():
    """A square moves 4 px to the right over a still ground: the ground it comes to cover is occluded."""
    h, w, left, move = 12, 20, 5, 4
    flow12, flow21 = torch.zeros(1, 2, h, w), torch.zeros(1, 2, h, w)
    flow12[:, 0, 3:9, left : left + 6] = move
    flow21[:, 0, 3:9, left + move : left + move + 6] = -move
    visible = ops.occlusion_mask(flow12, flow21)[0, 0]
    expected = torch.ones(h, w)
    expected[3:9, left + 6 : left + 6 + move] = 0
    assert torch.equal(visible, expected)


def test_what_leaves_the_frame_is_occluded():
    flow12 = constant_flow(3.0, 0.0, 6, 8)
    visible = ops.occlusion_mask(flow12, -flow12)[0, 0]
    assert torch.equal(visible.sum(0), torch.tensor([6.0] * 5 + [0.0] * 3))


def test_small_inconsistencies_grow_with_the_flow():
    def visible(flow: float, gap: float) -> float:
        forward = constant_flow(flow, 0.0, 1, 200)
        return float(ops.occlusion_mask(forward, -forward + constant_flow(gap, 0.0, 1, 200))[0, 0, 0, 50])

    assert (visible(1.0, 0.70), visible(1.0, 0.75)) == (1.0, 0.0)  # 0.5 px^2 for small flows
    assert (visible(50.0, 6.0), visible(50.0, 8.0)) == (1.0, 0.0)  # then a tenth of the length


@pytest.mark.parametrize(("radius", "block"), [(4, 1), (4, 2), (4, 4), (4, 8), (2, 8), (1, 16)])
def test_correlation_by_blocks_is_the_dot_product_of_every_shift(radius, block):
    feats1, feats2 = torch.randn(2, 2, 3, 5, 16, generator=torch.Generator().manual_seed(0))
    corr = ops.local_correlation(feats1, feats2, radius, block)
    padded = F.pad(feats2, [radius] * 4)
    d = 2 * radius + 1
    shifted = [padded[:, :, i : i + 5, j : j + 16] for i in range(d) for j in range(d)]
    torch.testing.assert_close(corr, torch.stack([(feats1 * s).sum(1) for s in shifted], dim=1))


@pytest.mark.parametrize("temperature", [1.0, 60.0, 100.0])
def test_soft_argmax_is_the_mean_shift_under_a_softmax(temperature):
    corr = torch.rand(2, 25, 6, 7, generator=torch.Generator().manual_seed(0)) * 2 - 1
    displacement, peak = ops.soft_argmax(corr, torch.tensor(temperature), 2)
    match = (corr * temperature).softmax(dim=1)
    expected = torch.einsum("bkhw,kc->bchw", match, ops.shift_vectors(2, corr))
    torch.testing.assert_close(displacement, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(peak, match.amax(1, keepdim=True), rtol=1e-4, atol=1e-5)


def test_soft_argmax_of_cosines_that_are_all_low_is_finite():
    displacement, peak = ops.soft_argmax(torch.full((1, 9, 2, 2), -0.3), torch.tensor(100.0), 1)
    torch.testing.assert_close(displacement, torch.zeros(1, 2, 2, 2), atol=1e-3, rtol=0)
    torch.testing.assert_close(peak, torch.full((1, 1, 2, 2), 1 / 9), rtol=1e-2, atol=0)


@pytest.mark.parametrize("size", [(128, 64), (192, 320), (448, 1024)])
@pytest.mark.parametrize("side", [64, 128])
def test_resize_area_is_opencvs_where_images_shrink(size, side):
    image = np.random.default_rng(0).uniform(0, 255, (*size, 3)).astype(np.float32)
    found = ops.resize_area(torch.from_numpy(image).permute(2, 0, 1)[None], side)[0].permute(1, 2, 0)
    expected = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(found.numpy(), expected, atol=0.05)
