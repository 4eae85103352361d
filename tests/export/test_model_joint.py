"""The joint model: presets' sizes and cost, invariances, and the way from images to flow and embeddings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mcjepa.config import ModelConfig, load_config
from mcjepa.model import MCJEPA
from mcjepa.model.content import Whitening, pool
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def images(n: int, h: int, w: int) -> Tensor:
    return torch.randint(0, 256, (n, 3, h, w), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.fixture
def model(small_model: ModelConfig) -> MCJEPA:
    torch.manual_seed(0)
    model = MCJEPA(small_model).eval()
    nn.init.normal_(model.flow_head.coarse.head.weight, std=0.05)  # as after training
    for (
        matcher
    ) in model.flow_head.matchers:  # mild: with noise to match, rounding would grow from level to level
        nn.init.constant_(matcher.log_temperature, 1.0)
    return model


def test_nano_has_at_most_4_million_parameters_with_the_expander():
    with torch.device("meta"):
        assert count(MCJEPA(load_config("nano").model)) <= 4_000_000


def test_nano_costs_at_most_8_gmac_for_a_1024x448_pair():
    frame = torch.zeros(1, 3, 448, 1024)
    model = MCJEPA(load_config("nano").model).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(frame, frame)
    assert counter.get_total_flops() / 2 <= 8e9


def test_tiny_has_the_papers_size():
    with torch.device("meta"):
        model = MCJEPA(load_config("tiny").model)
    assert 27.5e6 < count(model.encoder) < 28e6
    assert count(model) - count(model.expander) < 28.5e6
    assert [layer.out_features for layer in model.expander if isinstance(layer, nn.Linear)] == [8192] * 3
    assert [layer.in_features for layer in model.expander if isinstance(layer, nn.Linear)] == [
        2 * (192 + 384 + 768),
        8192,
        8192,
    ]


def test_tiny_runs():
    config = load_config("tiny").model
    model = MCJEPA(replace(config, content=replace(config.content, expander_dim=16))).eval()
    with torch.no_grad():
        feats = model.encode(images(2, 64, 128))
        flow = model.flow([f[:1] for f in feats], [f[1:] for f in feats]).flow
        embedding = model.embed(feats)
    assert flow.shape == (1, 2, 64, 128)
    assert torch.isfinite(flow).all()
    assert embedding.shape == (2, 768)
    assert model.expand(feats).shape == (2, 16)


@pytest.mark.parametrize("size", [(64, 64), (64, 192), (128, 64)])
def test_flow_comes_at_full_resolution_for_any_multiple_of_64(model, size):
    img1, img2 = images(4, *size).chunk(2)
    with torch.no_grad():
        flow = model(img1, img2).flow
    assert flow.shape == (2, 2, *size)
    assert flow.dtype == torch.float32
    assert torch.isfinite(flow).all()
    assert flow.abs().max() <= model.config.flow.max_flow


def test_a_sample_does_not_depend_on_the_others_in_its_batch(model):
    img1, img2 = images(6, 64, 64).chunk(2)
    with torch.no_grad():
        together, alone = model(img1, img2).flow, model(img1[1:2], img2[1:2]).flow
        embeddings = model.embed(model.encode(img1))
        single = model.embed(model.encode(img1[1:2]))
    torch.testing.assert_close(together[1:2], alone, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(embeddings[1:2], single, atol=1e-5, rtol=1e-5)


def test_the_pair_is_the_pair_of_its_pyramids_in_order(model):
    img1, img2 = images(2, 64, 128).chunk(2)
    with torch.no_grad():
        pair = model(img1, img2)
        maps1, maps2 = (model.flow_head.project(model.encode(img)) for img in (img1, img2))
        there, back = model.flow_head.match(maps1, maps2), model.flow_head.match(maps2, maps1)
        grey1, grey2 = model.refinement.grey(img1), model.refinement.grey(img2)
        forward = model.refinement(grey1, grey2, there[-1])
        backward = model.refinement(grey2, grey1, back[-1])
    torch.testing.assert_close(pair.levels, there, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(pair.flow, forward, atol=2e-2, rtol=1e-3)  # noise: rounding grows
    assert (forward - backward).abs().max() > 0.1


def test_the_pooled_statistics_are_mean_and_deviation_of_the_levels_asked_for(model):
    with torch.no_grad():
        feats = model.encode(images(2, 128, 64))
    expected = [
        s for f in (feats[2], feats[4]) for s in (f.mean((2, 3)), (f.var((2, 3), correction=0) + 1e-4).sqrt())
    ]
    torch.testing.assert_close(pool(feats, (2, 4)), torch.cat(expected, dim=1))


@pytest.mark.parametrize("power", [0.0, 0.25, 0.5])
def test_whitening_makes_components_uncorrelated_with_variances_to_the_power(power):
    draws = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) @ torch.diag(
        torch.arange(1.0, 7.0)
    )
    draws = draws @ torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0] + 3.0
    whitening = Whitening(6, 4)
    whitening.fit(draws, power)
    found = torch.cov(whitening(draws).T)
    largest = torch.linalg.eigvalsh(torch.cov(draws.T)).flip(0)[:4]
    torch.testing.assert_close(found, torch.diag(largest ** (1 - 2 * power)), rtol=1e-3, atol=1e-3)


def test_whitening_does_not_depend_on_the_signs_that_a_solver_gives():
    draws = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    first, second = Whitening(5, 5), Whitening(5, 5)
    first.fit(draws, 0.5)
    second.fit(draws.flip(0), 0.5)
    torch.testing.assert_close(first.matrix, second.matrix, rtol=1e-4, atol=1e-4)


def test_a_model_in_float64_computes_in_float64(model):
    img1, img2 = images(2, 64, 128)[:, None].unbind(0)
    with torch.no_grad():
        rounded = model(img1, img2)
        exact = model.double()(img1, img2)
        embedding = model.embed(model.encode(img1))
    assert {exact.flow.dtype, embedding.dtype, *(f.dtype for f in exact.levels)} == {torch.float64}
    assert 0 < (rounded.flow - exact.flow).abs().max() < 5e-2


def test_bf16_autocast_stays_near_float32(model):
    img1, img2 = images(2, 64, 128).chunk(2)
    with torch.no_grad():
        exact = model(img1, img2)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(img1, img2)
    assert rough.flow.dtype == torch.float32
    assert all(f.dtype == torch.float32 for f in rough.levels)
    assert (rough.flow - exact.flow).abs().median() < 0.1 * exact.flow.abs().median() + 0.1
