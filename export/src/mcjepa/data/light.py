"""Photometric change of frame pairs, a batch at a time on any device."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mcjepa.data.draws import Draws, constant

GREY = (0.299, 0.587, 0.114)


def relight_pairs(
    img1: Tensor, img2: Tensor, draws: Draws, relight: float = 1.0, soft: float = 0.2, noise: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Change the light of frame pairs without moving anything: float (B, 3, H, W), 0 .. 255 -> uint8.

    Gamma, contrast, brightness, colour and saturation change strongly for both frames alike and weakly for
    each alone; noise and blur come for each alone. relight: the share of pairs whose light changes; soft,
    noise: the shares of frames that are blurred and noisy.
    """
    b = len(img1)
    x = torch.cat([img1, img2]).div_(255)
    if relight:
        _relight(x, relight, draws.fork("light"))
    own = draws.fork("soft")
    blurred = own.rows(2 * b, soft)
    if len(blurred):
        x[blurred] = blur(x[blurred], own.uniform(len(blurred), low=0.3, high=1.2), 1.2)
    own = draws.fork("noise")
    noisy = own.rows(2 * b, noise)
    if len(noisy):
        sigma = own.uniform(len(noisy), low=0.5, high=5.0) / 255
        x[noisy] += own.normal(len(noisy), *x.shape[1:]).mul_(each_image(sigma))
    first, second = to_uint8(x).chunk(2)
    return first, second


def _relight(x: Tensor, share: float, draws: Draws) -> None:
    """Both frames of pairs, (2B, 3, H, W), 0 .. 1, in place."""
    b = len(x) // 2
    common, changes = _log_light(b, 1.0, draws), draws.chance(b, 1, p=share)
    lights = torch.cat([(common + _log_light(b, 0.3, draws)) * changes for _ in range(2)]).exp()  # (2B, 6)
    gamma, contrast, saturation = lights[:, :3, None, None].unbind(1)  # each (2B, 1, 1)
    x.clamp_(1e-4, 1).pow_(gamma[..., None])
    # contrast about the middle, gains and saturation are one affine map of each colour
    keep, device = torch.eye(3, device=x.device), x.device
    saturate = saturation * keep + (1 - saturation) * constant(GREY, device)
    gains = lights[:, None, 3:]
    offset = 0.5 * (1 - contrast) * (saturate * gains).sum(2, keepdim=True)
    x.copy_(torch.baddbmm(offset, saturate * gains * contrast, x.flatten(2)).view_as(x))


def _log_light(number: int, strength: float, draws: Draws) -> Tensor:
    """Logarithms of gamma, contrast, saturation and the gains of R, G and B: (B, 6)."""
    first = draws.uniform(number, 4, low=-0.3, high=0.3)
    gains = first[:, 3:] + draws.uniform(number, 3, low=-0.1, high=0.1)
    return strength * torch.cat([first[:, :3], gains], 1)


def grey(x: Tensor) -> Tensor:
    """(B, 3, H, W) -> the same shape, all channels alike."""
    return (x * constant(GREY, x.device).reshape(1, 3, 1, 1)).sum(1, keepdim=True).expand_as(x)


def blur(x: Tensor, sigma: Tensor, most: float) -> Tensor:
    """Gaussian blur of (B, C, H, W) by sigma (B,) px, at most `most`; 0 leaves an image as it is."""
    radius = math.ceil(2.5 * most)
    taps = torch.arange(-radius, radius + 1, device=x.device)
    weights = torch.exp(-0.5 * (taps / sigma.clamp(min=1e-3)[:, None]).square())
    weights = weights / weights.sum(1, keepdim=True)  # (B, taps)
    for dim in (2, 3):
        pad = [radius, radius, 0, 0] if dim == 3 else [0, 0, radius, radius]
        padded, n = F.pad(x, pad, mode="reflect"), x.shape[dim]
        first, *others = enumerate(weights.T)
        x = padded.narrow(dim, first[0], n) * each_image(first[1])
        for i, w in others:
            x.addcmul_(padded.narrow(dim, i, n), each_image(w))
    return x


def each_image(values: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1)."""
    return values.reshape(-1, 1, 1, 1)


def to_uint8(x: Tensor) -> Tensor:
    return (x * 255).round_().clamp_(0, 255).to(torch.uint8)
