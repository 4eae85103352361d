"""Matching features: how those of a pair are made comparable."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-5  # under the square root of a deviation


def standardise(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """Each channel of a pair's features, (B, C, H, W) each, at mean 0 and deviation 1 over both frames.

    Needed before the l2 norm: else a part that is the same everywhere takes over the direction of all
    features, every cosine goes to 1, and the level never matches again (seen at stride 8).
    """
    mean = (one.mean((2, 3), keepdim=True) + two.mean((2, 3), keepdim=True)) / 2
    one, two = one - mean, two - mean
    variance = (one.square().mean((2, 3), keepdim=True) + two.square().mean((2, 3), keepdim=True)) / 2
    scale = torch.rsqrt(variance + EPS)
    return one * scale, two * scale
