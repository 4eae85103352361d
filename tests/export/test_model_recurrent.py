"""The recurrent head: it looks costs up where the flow points, and any number of iterations works."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mcjepa import ops
from mcjepa.config import EncoderConfig, FlowConfig, RecurrentConfig
from mcjepa.model.flow import FlowHead
from mcjepa.model.recurrent import RecurrentHead, lookup
from mcjepa.quality import FAST

WIDTHS = (16,) * 6
CONFIG = FlowConfig(
    match_dim=16,
    hidden_dim=8,
    widths=(16,),
    recurrent=RecurrentConfig(
        iterations=3, match_dim=8, context_dim=8, state_dim=16, radius=2, scales=(1, 2)
    ),
)


def pyramid(seed: int, batch: int = 1, size: tuple[int, int] = (128, 192)) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, 16, size[0] // 2**level, size[1] // 2**level, generator=g) for level in range(1, 7)
    ]


@pytest.fixture
def head() -> RecurrentHead:
    torch.manual_seed(0)
    return RecurrentHead(EncoderConfig(widths=WIDTHS), CONFIG).eval()


def test_lookup_at_whole_pixels_is_the_costs_of_the_shifted_positions():
    h, w, radius = 5, 7, 2
    costs = torch.randn(h * w, 1, h, w, generator=torch.Generator().manual_seed(0))
    flow = torch.tensor([1.0, -2.0]).reshape(1, 2, 1, 1).expand(1, 2, h, w)
    seen = lookup(costs, flow, 1, radius)
    for channel, (dx, dy) in enumerate(ops.shift_vectors(radius, flow).int().tolist()):
        for y in range(h):
            for x in range(w):
                column, row = x + 1 + dx, y - 2 + dy
                inside = 0 <= column < w and 0 <= row < h
                want = costs[y * w + x, 0, row, column] if inside else torch.tensor(0.0)
                assert seen[0, channel, y, x] == pytest.approx(float(want), abs=1e-5)


def test_lookup_at_a_coarser_scale_is_centred_on_the_same_point():
    """The costs are the columns' own positions, so what is read in the middle is where the flow points."""
    h, w, scale = 4, 8, 2
    columns = torch.nn.functional.avg_pool2d(torch.arange(float(w)).expand(h * w, 1, h, w), scale)
    flow = torch.zeros(1, 2, h, w)
    flow[:, 0] = 0.5
    middle = lookup(columns, flow, scale, 1)[0, 4, 1, 1 : w - 2]
    assert middle.tolist() == pytest.approx([1.5, 2.5, 3.5, 4.5, 5.5], abs=1e-5)


@pytest.mark.parametrize("iterations", [1, 3, 7])
def test_any_number_of_iterations_gives_a_flow_for_each_and_for_each_pass(head, iterations):
    with torch.no_grad():
        flows = head(pyramid(1, 2), pyramid(2, 2), iterations)
    assert [tuple(f.shape) for f in flows] == [(2, 2, 8, 12)] * iterations + [(2, 2, 16, 24)] * FAST.passes


def test_iterations_are_those_of_the_configuration_by_default(head):
    with torch.no_grad():
        assert len(head(pyramid(1), pyramid(2))) == CONFIG.recurrent.iterations + FAST.passes


def test_a_pair_does_not_depend_on_its_neighbours_in_the_batch(head):
    one, two = pyramid(1, 2), pyramid(2, 2)
    with torch.no_grad():
        maps = [head.recurrent.project(f) for f in (one, two)]
        both = head.recurrent(*maps, 3)[0][-1]
        first = head.recurrent(*(m[:1] for m in maps), 3)[0][-1]
    torch.testing.assert_close(both[:1], first, atol=1e-4, rtol=1e-4)


def test_no_flow_is_beyond_the_limit(head):
    head.config = replace(CONFIG, max_flow=32.0)
    head.recurrent.limit = 2.0
    torch.nn.init.constant_(head.recurrent.residual[-1].bias, 50.0)
    with torch.no_grad():
        flows = head(pyramid(1), pyramid(2))
    assert max(float(f.abs().max()) * s for f, s in zip(flows, (16, 16, 16, 8, 8), strict=True)) <= 32.0


def test_the_loss_of_the_last_iteration_reaches_the_first_state_and_each_weight_of_the_update(head):
    flows, _ = head.recurrent(*(head.recurrent.project(pyramid(i)) for i in (1, 2)), 3)
    flows[-1].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.recurrent.parameters())


def test_passes_at_stride_8_start_from_a_trained_head(head):
    torch.manual_seed(5)
    trained = FlowHead(EncoderConfig(widths=WIDTHS), CONFIG)
    head.start_from(trained)
    feats1, feats2 = pyramid(1), pyramid(2)
    maps1, maps2 = (trained.project(f)[0] for f in (feats1, feats2))
    flow, hidden = torch.zeros(1, 2, 16, 24), torch.zeros(1, 8, 16, 24)
    with torch.no_grad():
        want, _ = trained.correct(
            trained.matchers[0], maps1, trained.matchers[0].prepare(maps1, maps2), flow, hidden
        )
        mine1, mine2 = (head.matcher.project(f[2]) for f in (feats1, feats2))
        got, _ = head.correct(head.matcher, mine1, head.matcher.prepare(mine1, mine2), flow, hidden)
    assert torch.equal(got, want)
