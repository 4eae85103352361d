"""Every term of the loss against a naive loop over pixels; weights, order and gradients."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
from mcjepa import losses, ops
from mcjepa.config import LossConfig
from torch import Tensor

SIZES = ((8, 12), (4, 6))  # two levels of features are enough for a reference
OFF = replace(
    LossConfig(),
    **{
        f.name: 0.0 for f in fields(LossConfig) if f.name not in ("variance", "covariance", "flow", "content")
    },
    variance=(0.0, 0.0),
    covariance=(0.0, 0.0),
)


@pytest.fixture
def batch() -> losses.VideoBatch:
    g = torch.Generator().manual_seed(1)

    def rand(*shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        return (scale * torch.rand(*shape, generator=g, dtype=torch.float64) + shift).requires_grad_()

    return losses.VideoBatch(
        img1=rand(2, 3, 8, 12).detach(),
        img2=rand(2, 3, 8, 12).detach(),
        feats1=[rand(2, 4, h, w, scale=2, shift=-1) for h, w in SIZES],
        feats2=[rand(2, 4, h, w, scale=2, shift=-1) for h, w in SIZES],
        flow12=rand(2, 2, 8, 12, scale=3, shift=-1.5),
        flow21=rand(2, 2, 8, 12, scale=3, shift=-1.5),
    )


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def positions(x: Tensor) -> list[tuple[int, int, int]]:
    return [(n, i, j) for n in range(x.shape[0]) for i in range(x.shape[-2]) for j in range(x.shape[-1])]


def check(value: Tensor, expected: float) -> None:
    assert value.item() == pytest.approx(expected, rel=1e-6)
    assert value.ndim == 0


def test_masked_mean_counts_what_the_mask_lets_through():
    values = torch.tensor([[[[1.0, 2.0]], [[3.0, 50.0]]]])  # (1, 2, 1, 2)
    assert losses.masked_mean(values, torch.tensor([[[[1.0, 0.0]]]])) == 2.0
    assert losses.masked_mean(values, torch.ones(1, 1, 1, 2)) == 14.0


def test_masked_mean_of_an_empty_mask_is_zero_with_zero_gradient():
    values = torch.ones(2, 3, 4, 4, requires_grad=True)
    mean_of_none = losses.masked_mean(values, torch.zeros(2, 1, 4, 4))
    mean_of_none.backward()
    assert mean_of_none.item() == 0.0
    assert torch.equal(values.grad, torch.zeros_like(values))


def window(image: Tensor, n: int, c: int, i: int, j: int) -> Tensor:
    """The 3x3 values about (i, j), mirrored at the border without repeating it."""
    h, w = image.shape[-2:]

    def mirror(k: int, size: int) -> int:
        return -k if k < 0 else 2 * (size - 1) - k if k >= size else k

    near = [(mirror(i + a, h), mirror(j + b, w)) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    return torch.stack([image[n, c, y, x] for y, x in near])


def naive_ssim_distance(x: Tensor, y: Tensor) -> float:
    mx, my = x.mean(), y.mean()
    vx, vy, cov = (x - mx).square().mean(), (y - my).square().mean(), ((x - mx) * (y - my)).mean()
    ssim = (2 * mx * my + 0.01**2) * (2 * cov + 0.03**2)
    ssim = ssim / ((mx**2 + my**2 + 0.01**2) * (vx + vy + 0.03**2))
    return min(max((1 - ssim.item()) / 2, 0.0), 1.0)


def test_photometric_is_l1_plus_mse_plus_ssim_over_visible_pixels(batch):
    visible = torch.ones(2, 1, 8, 12, dtype=torch.float64)
    visible[0, :, :4] = 0
    warped = ops.warp(batch.img2, batch.flow12)
    values = []
    for n, i, j in positions(batch.img1):
        for c in range(3):
            gap = (batch.img1[n, c, i, j] - warped[n, c, i, j]).item()
            ssim = naive_ssim_distance(window(batch.img1, n, c, i, j), window(warped, n, c, i, j))
            if visible[n, 0, i, j] == 1:
                values.append(abs(gap) + gap**2 + ssim)
    check(losses.photometric(batch.img1, batch.img2, batch.flow12, visible), mean(values))


def test_ssim_distance_of_equal_images_is_zero_and_of_opposite_ones_large(batch):
    assert losses.ssim_distance(batch.img1, batch.img1).abs().max() < 1e-9
    assert losses.ssim_distance(batch.img1, 1 - batch.img1).mean() > 0.5


def naive_resize(flow: Tensor, factor: int) -> Tensor:
    out = torch.empty(flow.shape[0], 2, flow.shape[2] // factor, flow.shape[3] // factor, dtype=flow.dtype)
    for n, i, j in positions(out):
        block = flow[n, :, i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]
        out[n, :, i, j] = block.flatten(1).mean(1) / factor
    return out


def test_resized_flow_is_the_mean_of_a_block_in_pixels_of_the_coarser_grid(batch):
    coarse = losses.resize_flow(batch.flow12, batch.feats1[1])
    torch.testing.assert_close(coarse, naive_resize(batch.flow12, 2))


@pytest.fixture
def visible() -> Tensor:
    g = torch.Generator().manual_seed(2)
    return (torch.rand(2, 1, 8, 12, generator=g) < 0.6).double()


def naive_weight(visible: Tensor, flow: Tensor, factor: int, n: int, i: int, j: int) -> float:
    """The visible share of a block of pixels; 0 where the flow of its position leaves the frame."""
    h, w = flow.shape[-2:]
    x, y = j + flow[n, 0, i, j].item(), i + flow[n, 1, i, j].item()
    block = visible[n, 0, i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]
    return block.mean().item() if 0 <= x <= w - 1 and 0 <= y <= h - 1 else 0.0


def weighted_mean(gaps: list[tuple[float, float]]) -> float:
    """Of pairs (weight, value)."""
    return sum(w * v for w, v in gaps) / sum(w for w, _ in gaps)


def test_feature_regression_is_the_squared_gap_where_visible(batch, visible):
    levels = []
    for factor, f1, f2 in zip((1, 2), batch.feats1, batch.feats2, strict=True):
        flow = naive_resize(batch.flow12, factor)
        warped, gaps = ops.warp(f2, flow), []
        for n, i, j in positions(f1):
            weight = naive_weight(visible, flow, factor, n, i, j)
            gap = (f1[n, :, i, j] - warped[n, :, i, j]).square().mean().item()
            gaps.append((weight, gap))
        assert len({weight for weight, _ in gaps}) == {1: 2, 2: 5}[factor]
        levels.append(weighted_mean(gaps))
    check(losses.feature_regression(batch.feats1, batch.feats2, batch.flow12, visible), mean(levels))


def test_what_is_hidden_in_frame_2_is_no_error(batch):
    assert (
        losses.feature_regression(batch.feats1, batch.feats2, batch.flow12, torch.zeros(2, 1, 8, 12).double())
        == 0
    )


def test_visibility_is_the_occlusion_mask_without_gradient_computed_once(batch, monkeypatch):
    assert torch.equal(batch.visible, ops.occlusion_mask(batch.flow12, batch.flow21))
    assert not batch.visible.requires_grad
    monkeypatch.setattr(ops, "occlusion_mask", broken)
    assert batch.visible.shape == (2, 1, 8, 12)


def test_smoothness_is_weaker_across_edges_of_the_image(batch):
    flow, img = batch.flow12, batch.img1
    along: dict[str, list[float]] = {"x": [], "y": []}
    for n, i, j in positions(flow):
        for name, (y, x) in {"x": (i, j + 1), "y": (i + 1, j)}.items():
            if y < 8 and x < 12:
                edge = (img[n, :, y, x] - img[n, :, i, j]).abs().mean().item()
                steps = (flow[n, :, y, x] - flow[n, :, i, j]).abs().tolist()
                along[name] += [math.exp(-10 * edge) * s for s in steps]
    check(losses.smoothness(flow, img), mean(along["x"]) + mean(along["y"]))


def test_cycle_consistency_warps_there_and_back_where_the_flow_stays_inside(batch):
    levels = []
    for factor, f in zip((1, 2), batch.feats1, strict=True):
        there, back = naive_resize(batch.flow21, factor), naive_resize(batch.flow12, factor)
        gap, everywhere, gaps = f - ops.warp(ops.warp(f, there), back), torch.ones(2, 1, 8, 12), []
        for n, i, j in positions(f):
            if naive_weight(everywhere, back, factor, n, i, j):
                gaps += gap[n, :, i, j].square().tolist()
        assert 0 < len(gaps) < f.numel()
        levels.append(mean(gaps))
    check(losses.cycle_consistency(batch.feats1, batch.flow12, batch.flow21), mean(levels))


def test_a_consistent_pair_of_flows_has_no_cycle_and_no_feature_loss():
    f1 = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    f1[..., :3], f1[..., -3:] = 0, 0  # nothing to see where the frame ends
    flow12 = torch.tensor([2.0, 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 8, 16)
    f2 = torch.roll(f1, 2, dims=3)
    seen = torch.ones(1, 1, 8, 16)
    assert losses.feature_regression([f1], [f2], flow12, seen) < 1e-10
    assert losses.feature_regression([f1], [f2], -flow12, seen) > 0.1
    assert losses.cycle_consistency([f1], flow12, -flow12) < 1e-10
    assert losses.cycle_consistency([f1], flow12, flow12) > 0.1


def naive_variance(x: Tensor) -> float:
    hinges = []
    for d in range(x.shape[1]):
        column = x[:, d].tolist()
        m = mean(column)
        std = math.sqrt(sum((v - m) ** 2 for v in column) / (len(column) - 1) + 1e-4)
        hinges.append(max(0.0, 1 - std))
    return mean(hinges)


def naive_covariance(x: Tensor) -> float:
    n, d = x.shape
    total = 0.0
    for a in range(d):
        for b in range(d):
            if a != b:
                ca, cb = (x[:, a] - x[:, a].mean()).tolist(), (x[:, b] - x[:, b].mean()).tolist()
                total += (sum(p * q for p, q in zip(ca, cb, strict=True)) / (n - 1)) ** 2
    return total / d


def embeddings(seed: int, n: int = 7, d: int = 5) -> Tensor:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x * torch.linspace(0.2, 2.0, d, dtype=torch.float64)  # stds on both sides of the hinge


def test_variance_is_the_hinge_on_each_dimension():
    x = embeddings(2)
    check(losses.variance(x), naive_variance(x))
    check(losses.variance(torch.zeros(4, 3)), 0.99)  # collapsed: 1 - sqrt(1e-4)


def test_covariance_is_what_lies_off_the_diagonal():
    x = embeddings(3)
    check(losses.covariance(x), naive_covariance(x))
    assert losses.covariance(x[:, :1]).item() == 0.0


def test_variance_covariance_has_weights_for_every_level(batch):
    config = replace(OFF, variance=(0.3, 0.2), covariance=(0.0, 0.7))
    fine, coarse = (f.permute(0, 2, 3, 1).reshape(-1, 4) for f in batch.feats1)
    expected = 0.3 * naive_variance(fine) + 0.2 * naive_variance(coarse) + 0.7 * naive_covariance(coarse)
    check(losses.variance_covariance(batch.feats1, config), expected)


def naive_known_motion(flow: Tensor, truth: Tensor) -> float:
    gaps = [(flow[n, :, i, j] - truth[n, :, i, j]).abs().sum().item() for n, i, j in positions(flow)]
    return mean([(g + 0.01) ** 0.7 for g in gaps])


def test_known_motion_is_the_robust_end_point_error(batch):
    check(losses.known_motion(batch.flow12, batch.flow21), naive_known_motion(batch.flow12, batch.flow21))


def test_known_motion_levels_compares_in_pixels_of_full_size(batch):
    truth = batch.flow21
    levels = [naive_resize(batch.flow12, 4), naive_resize(batch.flow12, 2)]
    expected = [
        naive_known_motion(f * s, naive_resize(truth, s) * s) for f, s in zip(levels, (4, 2), strict=True)
    ]
    check(losses.known_motion_levels(levels, truth), sum(expected))
    perfect = losses.known_motion_levels([naive_resize(truth, 4), naive_resize(truth, 2)], truth)
    check(perfect, 2 * 0.01**0.7)


def test_earlier_levels_of_known_motion_count_less_by_the_decay(batch):
    levels = [batch.flow12, 0.5 * batch.flow12, batch.flow21 + 1.0]
    one, two, three = (naive_known_motion(flow, batch.flow21) for flow in levels)
    check(losses.known_motion_levels(levels, batch.flow21, 0.8), three + 0.8 * two + 0.64 * one)


def test_content_terms_are_those_of_vicreg():
    z1, z2 = embeddings(4), embeddings(5)
    terms = losses.content_terms(z1, z2, LossConfig())
    assert list(terms) == ["invariance", "content_variance", "content_covariance"]
    gaps = [(a - b) ** 2 for a, b in zip(z1.flatten().tolist(), z2.flatten().tolist(), strict=True)]
    check(terms["invariance"], 25 * mean(gaps))
    check(terms["content_variance"], 25 * (naive_variance(z1) + naive_variance(z2)) / 2)
    check(terms["content_covariance"], naive_covariance(z1) + naive_covariance(z2))


def test_video_terms_come_in_the_papers_order_each_with_its_weight(batch):
    config = replace(LossConfig(), variance=(0.1, 0.2), covariance=(0.3, 0.4), photometric=0.7, feature=0.6)
    terms = losses.video_terms(batch, config)
    assert list(terms) == ["photometric", "feature", "smoothness", "cycle", "variance_covariance"]
    visible = ops.occlusion_mask(batch.flow12, batch.flow21)
    photometric = losses.photometric(batch.img1, batch.img2, batch.flow12, visible)
    check(terms["photometric"], 0.7 * photometric.item())
    regression = losses.feature_regression(batch.feats1, batch.feats2, batch.flow12, visible)
    check(terms["feature"], 0.6 * regression.item())
    check(terms["smoothness"], config.smoothness * losses.smoothness(batch.flow12, batch.img1).item())
    cycle = losses.cycle_consistency(batch.feats1, batch.flow12, batch.flow21)
    check(terms["cycle"], config.cycle * cycle.item())
    check(terms["variance_covariance"], losses.variance_covariance(batch.feats1, config).item())


def test_the_total_is_the_weighted_sum():
    terms = {"a": torch.tensor(1.0), "b": torch.tensor(2.5)}
    assert losses.total(terms, 0.1).item() == pytest.approx(0.35)


def broken(*_args: object) -> Tensor:
    raise AssertionError("a term of weight 0 was computed")


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("photometric", "photometric"),
        ("feature", "feature_regression"),
        ("smoothness", "smoothness"),
        ("cycle", "cycle_consistency"),
        ("variance_covariance", "variance_covariance"),
    ],
)
def test_a_video_term_of_weight_zero_is_not_computed(batch, monkeypatch, name, function):
    monkeypatch.setattr(losses, function, broken)
    off = {"variance": (0.0, 0.0), "covariance": (0.0, 0.0)} if name == "variance_covariance" else {name: 0.0}
    config = replace(LossConfig(variance=(0.1, 0.1), covariance=(0.1, 0.1)), **off)
    terms = losses.video_terms(batch, config)
    assert len(terms) == 4
    assert name not in terms


@pytest.mark.parametrize("name", ["known_motion", "known_motion_levels"])
def test_a_known_motion_term_of_weight_zero_is_left_out(batch, name):
    config = replace(LossConfig(), **{name: 0.0})
    terms = losses.known_motion_terms(batch.flow12, [batch.flow12], batch.flow21, config)
    assert set(terms) == {"known_motion", "known_motion_levels"} - {name}


def test_content_terms_of_weight_zero_are_not_computed(monkeypatch):
    monkeypatch.setattr(losses, "covariance", broken)
    monkeypatch.setattr(losses, "variance", broken)
    config = replace(LossConfig(), content_variance=0.0, content_covariance=0.0)
    assert list(losses.content_terms(embeddings(4), embeddings(5), config)) == ["invariance"]


def test_all_terms_off_leave_nothing(batch):
    assert losses.video_terms(batch, OFF) == {}
    assert losses.known_motion_terms(batch.flow12, [batch.flow12], batch.flow21, OFF) == {}
    assert losses.content_terms(embeddings(4), embeddings(5), OFF) == {}


def test_gradients_of_the_flow_terms_are_right(batch):
    visible = torch.ones(2, 1, 8, 12, dtype=torch.float64)
    f1, f2, flow12, flow21 = batch.feats1[1], batch.feats2[1], batch.flow12, batch.flow21
    small = flow12[:1, :, ::2, ::2].detach().requires_grad_()  # (1, 2, 4, 6)
    back = flow21[:1, :, ::2, ::2].detach().requires_grad_()
    img1, img2, seen = batch.img1[:1, :, :4, :6], batch.img2[:1, :, :4, :6], visible[:1, :, :4, :6]
    x1, x2 = f1[:1].detach().requires_grad_(), f2[:1].detach().requires_grad_()
    check_gradients = torch.autograd.gradcheck
    assert check_gradients(lambda f: losses.photometric(img1, img2, f, seen), small)
    assert check_gradients(lambda a, b, f: losses.feature_regression([a], [b], f, seen), (x1, x2, small))
    assert check_gradients(lambda f: losses.smoothness(f, img1), small)
    assert check_gradients(lambda a, f, b: losses.cycle_consistency([a], f, b), (x1, small, back))
    assert check_gradients(lambda f: losses.known_motion(f, back.detach()), small)


def test_gradients_of_variance_and_covariance_are_right():
    x = embeddings(6).requires_grad_()
    assert torch.autograd.gradcheck(losses.variance, x)
    assert torch.autograd.gradcheck(losses.covariance, x)


def test_gradients_stay_finite_where_a_term_has_a_corner():
    """Perfect flow, collapsed features, equal views, black images: values that training does meet."""
    black = torch.zeros(1, 3, 8, 8)
    flow = torch.zeros(1, 2, 8, 8, requires_grad=True)
    feats = torch.zeros(1, 4, 8, 8, requires_grad=True)
    z = torch.zeros(4, 3, requires_grad=True)
    batch = losses.VideoBatch(black, black, [feats], [feats], flow, flow)
    config = replace(LossConfig(), variance=(1.0,), covariance=(1.0,))
    terms = losses.video_terms(batch, config)
    terms |= losses.known_motion_terms(flow, [flow], flow.detach(), config)
    terms |= losses.content_terms(z, z, config)
    losses.total(terms, 1.0).backward()
    assert all(torch.isfinite(x.grad).all() for x in (flow, feats, z))


def test_distillation_looks_at_visible_points_only():
    taught = torch.randn(1, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    visible = torch.zeros(1, 1, 4, 6)
    visible[..., :3] = 1.0
    wrong = taught.clone()
    wrong[..., 3:] += 50.0
    at_best = losses.distillation(taught, taught, visible)
    torch.testing.assert_close(losses.distillation(wrong, taught, visible), at_best)
    wrong[..., :3] += 2.0
    torch.testing.assert_close(
        losses.distillation(wrong, taught, visible), torch.tensor(4.01**0.7), rtol=1e-4, atol=0
    )
