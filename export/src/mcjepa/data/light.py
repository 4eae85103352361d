"""Photometric change of frame pairs, a batch at a time on any device."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mcjepa.data.draws import Draws, constant

GREY = (0.299, 0.587, 0.114)


def relight_pairs(img1: Tensor, img2: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Change the light of frame pairs without moving anything: float (B, 3, H, W), 0 .. 255 -> uint8.

    Gamma, contrast, brightness, colour and saturation change strongly for both frames alike and weakly for
    each alone; noise and blur come for each alone.
    """
    b = len(img1)
    common = _log_light(b, 1.0, draws)
    lights = torch.cat([common + _log_light(b, 0.3, draws) for _ in range(2)]).exp()  # (2B, 6)
    gamma, contrast, saturation = (lights[:, i].reshape(-1, 1, 1, 1) for i in range(3))
    x = (torch.cat([img1, img2]) / 255).clamp(1e-4, 1) ** gamma
    x = (((x - 0.5) * contrast + 0.5) * lights[:, 3:].reshape(-1, 3, 1, 1)).clamp(0, 1)
    x = grey(x).lerp(x, saturation).clamp(0, 1)
    blurred = draws.distinct(int(0.2 * 2 * b + draws.host.random()), 2 * b)  # a fifth; blurring is slow
    if len(blurred):
        x[blurred] = blur(x[blurred], draws.uniform(len(blurred), low=0.3, high=1.2), 1.2)
    sigma = draws.uniform(2 * b, low=0.5, high=5.0) * draws.chance(2 * b, p=0.5) / 255
    first, second = to_uint8(x + draws.normal(*x.shape) * sigma.reshape(-1, 1, 1, 1)).chunk(2)
    return first, second


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
        x = torch.stack([each_image(w) * padded.narrow(dim, i, n) for i, w in enumerate(weights.T)]).sum(0)
    return x


def each_image(values: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1)."""
    return values.reshape(-1, 1, 1, 1)


def to_uint8(x: Tensor) -> Tensor:
    return (x * 255).round().clamp(0, 255).to(torch.uint8)
