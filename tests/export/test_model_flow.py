"""The flow head: it matches before it has learned anything, in the right direction, within its limits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from mcjepa import ops
from mcjepa.config import EncoderConfig, FlowConfig
from mcjepa.model.flow import FlowHead, LevelMatcher, context_dim, input_dim
from mcjepa.quality import FAST, TRAINED
from torch import Tensor

WIDTHS = (16,) * 6
SIZE = (256, 384)
STRIDES = (32, 16, 8)


def waves(stride: int, shift: tuple[float, float]) -> Tensor:
    """Features (1, 16, H / s, W / s) of a scene of waves, 5 to 20 grid steps long, moved by `shift` px."""
    g = torch.Generator().manual_seed(stride)
    length = stride * (5 + 15 * torch.rand(16, generator=g))
    angle, phase = 2 * math.pi * torch.rand(2, 16, generator=g)
    xs = (torch.arange(SIZE[1] // stride) + 0.5) * stride - shift[0]
    ys = (torch.arange(SIZE[0] // stride) + 0.5) * stride - shift[1]
    along = angle.cos()[:, None, None] * xs + angle.sin()[:, None, None] * ys[:, None]
    return torch.sin(2 * math.pi / length[:, None, None] * along + phase[:, None, None])[None]


def pyramid(shift: tuple[float, float]) -> list[Tensor]:
    return [waves(2 ** (level + 1), shift) for level in range(6)]


def at_full_size(levels: list[Tensor]) -> Tensor:
    return ops.upsample_flow_bilinear(levels[-1], STRIDES[-1])


@pytest.fixture
def config() -> FlowConfig:
    return FlowConfig(match_dim=16, hidden_dim=8, widths=(16,))


@pytest.fixture
def head(config: FlowConfig) -> FlowHead:
    torch.manual_seed(1)
    return FlowHead(EncoderConfig(widths=WIDTHS), config).eval()


@pytest.mark.parametrize("shift", [(0, 0), (8, -4), (-3, 5), (-37, 21), (44, 30)])
def test_a_fresh_head_finds_a_known_shift_by_matching_alone(head, shift):
    with torch.no_grad():
        flow = at_full_size(head(pyramid((0, 0)), pyramid(shift)))
    middle = flow[0, :, 64:-64, 64:-64].flatten(1)
    assert middle.median(1).values.tolist() == pytest.approx(shift, abs=0.75)
    assert (middle - torch.tensor(shift)[:, None]).norm(dim=0).quantile(0.9) < 5.0


def test_levels_go_from_coarse_to_fine_in_pixels_of_their_own_grids(head):
    with torch.no_grad():
        levels = head(pyramid((0, 0)), pyramid((16, -8)))
    assert [tuple(f.shape) for f in levels] == [(1, 2, SIZE[0] // s, SIZE[1] // s) for s in STRIDES]
    for flow, stride in zip(levels[1:], STRIDES[1:], strict=True):
        cut = 64 // stride
        middle = flow[0, :, cut:-cut, cut:-cut].flatten(1).median(1).values * stride
        assert middle.tolist() == pytest.approx([16, -8], abs=2.0)


def test_what_is_far_around_reaches_a_position(head):
    """Dilations 2, 4, 8 and 1 see 15 positions away, and the head one more."""
    for conv in (head.surroundings.far.head, head.surroundings.hidden):
        torch.nn.init.normal_(conv.weight, std=0.1)
    x = torch.randn(
        1, head.surroundings.far.body[0].in_channels, 48, 48, generator=torch.Generator().manual_seed(0)
    )
    moved = x.clone()
    moved[..., 24, 24] += 1.0
    with torch.no_grad():
        before, after = head.surroundings(x), head.surroundings(moved)
    for a, b, reach in zip(before, after, (15, 16), strict=True):
        rows, columns = (a != b).any(dim=1)[0].nonzero().T
        assert (rows.min(), rows.max()) == (columns.min(), columns.max()) == (24 - reach, 24 + reach)


def test_flow_is_clipped_at_every_level(head):
    head.config = replace(head.config, max_flow=10.0)
    torch.nn.init.constant_(head.coarse.head.bias, 100.0)
    with torch.no_grad():
        levels = head(pyramid((0, 0)), pyramid((60, 0)))
    assert at_full_size(levels).abs().max() <= 10.0 + 1e-4
    for flow, stride in zip(levels, STRIDES, strict=True):
        assert flow.abs().max() * stride == pytest.approx(10.0)


@pytest.mark.parametrize("value", [0.0, 1e4])
def test_flow_of_featureless_frames_is_finite(head, value):
    blank = [torch.full_like(f, value) for f in pyramid((0, 0))]
    flow = at_full_size(head(blank, blank))
    flow.sum().backward()
    assert torch.isfinite(flow).all()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


def test_every_parameter_of_the_head_learns(head):
    far = head.surroundings
    for conv in (head.coarse.head, far.far.head, far.hidden):
        torch.nn.init.normal_(conv.weight, std=0.1)  # at zero they hide what lies before them
    at_full_size(head(pyramid((0, 0)), pyramid((3, 2)))).square().mean().backward()
    silent = [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_a_matcher_tells_the_shift_left_over_after_the_flow(config):
    """Frame 2 is 3 px away, the flow knows of 1: the displacement is the other 2."""
    torch.manual_seed(0)
    matcher = LevelMatcher(16, replace(config, temperature=100.0), stride=2)
    f1, f2 = waves(2, (0, 0)), waves(2, (6, -2))  # at stride 2: (3, -1) px of the grid
    flow = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1).expand(1, 2, *f1.shape[-2:])
    corr, displacement, peak = matcher(*matcher.prepare(matcher.project(f1), matcher.project(f2)), flow)
    middle = displacement[0, :, 8:-8, 8:-8].flatten(1)
    assert middle.median(1).values.tolist() == pytest.approx([2.0, -1.0], abs=0.1)
    assert corr.abs().max() <= 1.0 + 1e-5
    assert corr.shape[1] == 81
    assert (peak >= 0).all()
    assert (peak <= 1).all()
    assert matcher.project(f1).shape[1] == context_dim(config)


def test_a_part_that_is_the_same_everywhere_does_not_hide_the_rest(config):
    torch.manual_seed(0)
    matcher = LevelMatcher(16, replace(config, temperature=100.0), stride=2)
    f1, f2, flow = waves(2, (0, 0)), waves(2, (6, -2)), torch.zeros(1, 2, SIZE[0] // 2, SIZE[1] // 2)
    with torch.no_grad():
        clear = matcher(*matcher.prepare(matcher.project(f1), matcher.project(f2)), flow)[1]
        hidden = matcher(*matcher.prepare(matcher.project(f1 + 100.0), matcher.project(f2 + 100.0)), flow)[1]
    torch.testing.assert_close(hidden, clear, rtol=0, atol=1e-2)


def test_a_pair_is_matched_by_its_own_statistics(config):
    """Not by those of the pairs it shares a batch with."""
    torch.manual_seed(0)
    matcher = LevelMatcher(16, config, stride=8).train()
    f1, f2 = waves(8, (0, 0)), waves(8, (13, -9))
    flow = torch.zeros(1, 2, *f1.shape[-2:])
    m1, m2 = matcher.project(f1), matcher.project(f2)
    alone = matcher(*matcher.prepare(m1, m2), flow)[0]
    both = matcher.prepare(torch.cat([m1, 5 * m2 + 3]), torch.cat([m2, 5 * m1 + 3]))
    beside = matcher(*both, flow.expand(2, -1, -1, -1))[0]
    torch.testing.assert_close(beside[:1], alone)


@pytest.mark.parametrize(
    ("radius", "match_dim", "hidden_dim"), [(4, 32, 32), (2, 32, 32), (4, 8, 8), (3, 16, 11)]
)
def test_the_estimator_takes_a_multiple_of_16_channels(radius, match_dim, hidden_dim):
    config = FlowConfig(radius=radius, match_dim=match_dim, hidden_dim=hidden_dim)
    assert input_dim(config) % 16 == 0
    assert match_dim <= context_dim(config) < match_dim + 16


def test_matching_is_in_float32_under_autocast(config):
    """The displacement is the expectation under the softmax of the correlation, as float64 has it."""
    torch.manual_seed(0)
    matcher = LevelMatcher(16, config, stride=8)
    f1, f2 = waves(8, (0, 0)), waves(8, (13, -9))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        maps = (matcher.project(f).float() for f in (f1, f2))
        found = matcher(*matcher.prepare(*maps), torch.zeros(1, 2, *f1.shape[-2:]))
    assert [x.dtype for x in found] == [torch.float32] * 3
    corr, displacement = found[0].double(), found[1].double()
    match = (corr * matcher.log_temperature.exp()).softmax(dim=1).reshape(1, 9, 9, *f1.shape[-2:])
    steps = torch.arange(-4, 5).double()[:, None, None]
    expected = torch.stack([(match.sum(1) * steps).sum(1), (match.sum(2) * steps).sum(1)], dim=1)
    torch.testing.assert_close(displacement, expected, rtol=0, atol=1e-4)


def test_a_second_pass_at_the_last_level_starts_from_the_first(head):
    torch.nn.init.normal_(head.coarse.head.weight, std=0.1)
    with torch.no_grad():
        maps = [head.project(pyramid(shift)) for shift in ((0, 0), (8, -4))]
        once, twice = head.match(*maps, TRAINED), head.match(*maps, FAST)
        trained = head(pyramid((0, 0)), pyramid((8, -4)))
    assert [x.shape for x in twice] == [x.shape for x in once]
    torch.testing.assert_close(twice[:-1], once[:-1], rtol=0, atol=0)
    assert (twice[-1] - once[-1]).abs().max() > 0.01
    torch.testing.assert_close(trained, once, rtol=0, atol=0)
