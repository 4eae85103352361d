"""Folding: another graph, the same function."""

from __future__ import annotations

import pytest
import torch
from mcjepa.config import ModelConfig
from mcjepa.model import MCJEPA
from mcjepa.model.encoder import LayerNorm2d
from mcjepa.model.folding import folded
from torch import Tensor, nn


@pytest.fixture
def model(small_model: ModelConfig) -> MCJEPA:
    """With nothing at the value that it starts from, in float64."""
    torch.manual_seed(0)
    model = MCJEPA(small_model).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1, 0.3)
    for matcher in model.flow_head.matchers:
        nn.init.constant_(matcher.log_temperature, 1.0)
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (2, 3, 128, 192), generator=torch.Generator().manual_seed(0)).double()


def test_a_folded_model_gives_the_same_flow_and_features(model, images):
    with torch.no_grad():
        small = folded(model)
        flow, expected = small(*images.split(1)).flow, model(*images.split(1)).flow
        levels = zip(small.read(small.encode(images)), model.encode(images), strict=True)
    assert expected.abs().max() > 1
    torch.testing.assert_close(flow, expected, rtol=1e-6, atol=1e-6)
    for found, level in levels:
        torch.testing.assert_close(found, level, rtol=1e-6, atol=1e-6)


def test_folding_leaves_the_model_as_it_was(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small = folded(model)
    assert not any(isinstance(module, LayerNorm2d) for module in small.modules())
    assert any(isinstance(module, LayerNorm2d) for module in model.modules())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
