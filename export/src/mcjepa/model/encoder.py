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
    """Depthwise convolution, LayerNorm, MLP, layer scale, residual: (B, C, H, W) -> the same.

    HardSwish stands for GELU, which costs a CPU as much as both 1x1 convolutions together.
    """

    def __init__(self, dim: int, kernel: int, expansion: int, layer_scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.norm = LayerNorm2d(dim)
        self.expand = nn.Conv2d(dim, expansion * dim, 1)
        self.reduce = nn.Conv2d(expansion * dim, dim, 1)
        self.scale = nn.Parameter(torch.full((dim, 1, 1), layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x))
        return x + self.scale * self.reduce(F.hardswish(self.expand(y)))


class Encoder(nn.Module):
    """(B, 3, H, W) normalised RGB -> six maps (B, widths[l], H / 2**(l+1), W / 2**(l+1)), finest first.

    H and W are multiples of 64. Every level but the first, which nothing is read from, ends in a LayerNorm,
    so that its features have a fixed scale.
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
        levels = zip(config.widths, config.depths, config.kernels, strict=True)
        for level, (width, depth, size) in enumerate(levels):
            # the stem is split in two overlapping convolutions, so that strides 2 and 4 exist
            kernel = (4, 3, 2, 2, 2, 2)[level]
            self.down.append(nn.Conv2d(previous, width, kernel, stride=2, padding=(kernel - 1) // 2))
            blocks = (ConvNeXtBlock(width, size, config.expansion, config.layer_scale) for _ in range(depth))
            self.stages.append(nn.Sequential(*blocks))
            self.norms.append(LayerNorm2d(width) if level else nn.Identity())
            previous = width

    def forward(self, images: Tensor, levels: int = 6) -> list[Tensor]:
        """Return the first `levels` maps; of fewer than six H and W need only be multiples of 2**levels."""
        feats = []
        x = images
        for down, stage, norm in list(zip(self.down, self.stages, self.norms, strict=True))[:levels]:
            x = norm(stage(down(x)))
            feats.append(x)
        return feats
