"""The encoder: its pyramid, what it ignores, and how it follows a shifted image."""

from __future__ import annotations

import pytest
import torch
from mcjepa.config import EncoderConfig, ModelConfig
from mcjepa.model import MCJEPA
from mcjepa.model.encoder import ConvNeXtBlock, Encoder, LayerNorm2d


@pytest.fixture
def encoder(small_model: ModelConfig) -> Encoder:
    torch.manual_seed(0)
    return Encoder(small_model.encoder).eval()


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(64, 64), (128, 64), (192, 320)])
def test_six_levels_of_strides_2_to_64(encoder, size):
    with torch.no_grad():
        feats = encoder(noise(2, 3, *size))
    widths = (8, 8, 12, 16, 16, 16)
    strides = (2, 4, 8, 16, 32, 64)
    expected = [(2, c, size[0] // s, size[1] // s) for c, s in zip(widths, strides, strict=True)]
    assert [tuple(f.shape) for f in feats] == expected


def test_every_level_that_is_read_is_normalised_over_its_channels(encoder):
    with torch.no_grad():
        feats = encoder(100 * noise(1, 3, 64, 128))
    for f in feats[1:]:
        torch.testing.assert_close(f.mean(1), torch.zeros_like(f[:, 0]), atol=1e-5, rtol=0)
        torch.testing.assert_close(f.var(1, unbiased=False), torch.ones_like(f[:, 0]), atol=0.05, rtol=0)


def test_layer_norm_looks_at_one_position_at_a_time():
    x = noise(2, 5, 3, 4)
    v = x[0, :, 1, 2]
    expected = (v - v.mean()) / (v.var(unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(LayerNorm2d(5)(x)[0, :, 1, 2], expected)


def test_a_block_whose_layer_scale_is_zero_is_the_identity():
    x = noise(1, 8, 5, 5)
    torch.testing.assert_close(ConvNeXtBlock(8, 7, 4, 0.0)(x), x)
    assert not torch.equal(ConvNeXtBlock(8, 7, 4, 0.1)(x), x)


def test_features_of_a_sample_do_not_depend_on_the_others(encoder):
    images = noise(3, 3, 64, 64)
    with torch.no_grad():
        together, alone = encoder(images), encoder(images[1:2])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:2], b, atol=1e-5, rtol=1e-5)


def test_an_image_shifted_by_a_stride_has_shifted_features(encoder):
    images = noise(1, 3, 128, 256)
    with torch.no_grad():
        feats, moved = encoder(images), encoder(torch.roll(images, 64, dims=3))
    for level, cells in ((0, 32), (1, 16), (2, 8)):  # the middle of the finer levels sees no border
        before, after = feats[level], torch.roll(moved[level], -cells, dims=3)
        height, width = before.shape[-2:]
        rows, columns = slice(3 * height // 8, 5 * height // 8), slice(3 * width // 8, 5 * width // 8)
        torch.testing.assert_close(
            after[..., rows, columns], before[..., rows, columns], atol=1e-4, rtol=1e-4
        )


def test_uint8_and_float_images_are_encoded_alike(small_model):
    torch.manual_seed(0)
    model = MCJEPA(small_model).eval()
    images = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with torch.no_grad():
        for a, b in zip(model.encode(images), model.encode(images.float()), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("field", ["widths", "depths"])
def test_a_pyramid_of_other_than_six_levels_is_an_error(field):
    with pytest.raises(ValueError, match=rf"encoder\.{field}"):
        Encoder(EncoderConfig(**{field: (8, 8, 8)}))
