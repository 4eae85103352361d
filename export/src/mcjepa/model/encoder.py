"""ConvNeXt (Liu et al., 2022) as a pyramid of strides 2 to 64: the stem is split (Bardes et al., 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcjepa.config import EncoderConfig


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W), at each position on its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """7x7 depthwise convolution, LayerNorm, 4x MLP, layer scale, residual: (B, C, H, W) -> the same."""

    def __init__(self, dim: int, layer_scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, 4 * dim)
        self.reduce = nn.Linear(4 * dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x).permute(0, 2, 3, 1)  # (B, H, W, C): linear layers instead of 1x1 convolutions
        y = self.scale * self.reduce(F.gelu(self.expand(self.norm(y))))
        return x + y.permute(0, 3, 1, 2)


class Encoder(nn.Module):
    """(B, 3, H, W) normalised RGB -> six maps (B, widths[l], H / 2**(l+1), W / 2**(l+1)), finest first.

    H and W are multiples of 64. Every level ends in a LayerNorm, so that its features have a fixed scale.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        if len(config.widths) != 6 or len(config.depths) != 6:
            raise ValueError(
                f"encoder.widths and encoder.depths need 6 values, got {config.widths}, {config.depths}"
            )
        self.down = nn.ModuleList()
        self.stages = nn.ModuleList()
        self.norms = nn.ModuleList()
        previous = 3
        for level, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            # the stem is split in two overlapping convolutions, so that strides 2 and 4 exist
            kernel = (4, 3, 2, 2, 2, 2)[level]
            self.down.append(nn.Conv2d(previous, width, kernel, stride=2, padding=(kernel - 1) // 2))
            self.stages.append(
                nn.Sequential(*(ConvNeXtBlock(width, config.layer_scale) for _ in range(depth)))
            )
            self.norms.append(LayerNorm2d(width))
            previous = width

    def forward(self, images: Tensor) -> list[Tensor]:
        feats = []
        x = images
        for down, stage, norm in zip(self.down, self.stages, self.norms, strict=True):
            x = norm(stage(down(x)))
            feats.append(x)
        return feats
