"""Flow head: coarse-to-fine matching and refinement over the pyramid.

After PWC-Net (Sun et al., 2018): warp, local correlation, estimator, residual flow. Two things differ: the
features that are matched are projected, standardised over the pair and l2-normalised, and the soft-argmax of
the correlation moves the flow before the estimator sees it, so that the estimator only corrects and fills in.
One estimator serves strides 32 to 8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcjepa import ops
from mcjepa.config import EncoderConfig, FlowConfig
from mcjepa.model.encoder import LayerNorm2d

FINEST_STRIDE = 4
MAX_TEMPERATURE = 100.0  # of cosines, within what `ops.soft_argmax` can take
BLOCK = 8  # positions that a matrix product of the correlation takes together
COARSEST = 4  # index of the level of stride 32, where matching starts: radius 4 reaches 128 px there


@dataclass
class FlowOutput:
    """flow (B, 2, H, W) px; levels: the flows of strides 32 .. 4, (B, 2, H/s, W/s), px of their own grids."""

    flow: Tensor
    levels: list[Tensor]


class Estimator(nn.Module):
    """3x3 convolutions, each with a norm (without, joint training diverges) -> hidden state and residual."""

    def __init__(
        self, in_dim: int, widths: tuple[int, ...], hidden_dim: int, dilations: tuple[int, ...]
    ) -> None:
        super().__init__()
        dims = (in_dim, *widths, hidden_dim)
        layers: list[nn.Module] = []
        for a, b, d in zip(dims[:-1], dims[1:], dilations, strict=True):
            layers += [nn.Conv2d(a, b, 3, padding=d, dilation=d), LayerNorm2d(b), nn.LeakyReLU(0.1)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Conv2d(hidden_dim, 2, 3, padding=1)
        nn.init.zeros_(self.head.weight)  # training starts from pure matching
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x)
        return hidden, self.head(hidden)


def context_dim(config: FlowConfig, radius: int) -> int:
    """Channels of the projection: those matched, and what brings `input_dim` to a multiple of 16."""
    return config.match_dim - (_described_dim(config, radius) + config.match_dim) % -16


def input_dim(config: FlowConfig, radius: int) -> int:
    """Channels that an estimator takes; convolutions are fastest with multiples of 16."""
    return _described_dim(config, radius) + context_dim(config, radius)


def _described_dim(config: FlowConfig, radius: int) -> int:
    """Correlation, flow, displacement, peak, hidden state of the coarser level."""
    return (2 * radius + 1) ** 2 + 2 + 2 + 1 + config.hidden_dim


def standardise(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """Each channel of a pair's features, (B, C, H, W) each, at mean 0 and deviation 1 over both frames.

    Needed before the l2 norm: else a part that is the same everywhere takes over the direction of all
    features, every cosine goes to 1, and the level never matches again (seen at stride 8).
    """
    mean = (one.mean((2, 3), keepdim=True) + two.mean((2, 3), keepdim=True)) / 2
    one, two = one - mean, two - mean
    variance = (one.square().mean((2, 3), keepdim=True) + two.square().mean((2, 3), keepdim=True)) / 2
    scale = torch.rsqrt(variance + 1e-5)
    return one * scale, two * scale


class LevelMatcher(nn.Module):
    """Matching at one level: normalised features, correlation, expected displacement; in float32."""

    def __init__(self, dim: int, config: FlowConfig, radius: int, stride: int) -> None:
        super().__init__()
        self.match_dim = config.match_dim
        self.radius = radius
        self.block = min(BLOCK, 64 // stride)  # H and W of the frames are multiples of 64
        self.project = nn.Conv2d(dim, context_dim(config, radius), 1)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature)))

    def forward(self, feats1: Tensor, feats2: Tensor, flow: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """-> corr (B, (2r+1)^2, H, W), displacement (B, 2, H, W) px, its peak (B, 1, H, W), context."""
        context = ops.at_least_float32(self.project(torch.cat([feats1, feats2])))
        projected = context[:, : self.match_dim]
        b = feats1.shape[0]  # slices: chunk makes sequences of ONNX, which its optimiser cannot fold
        source, target = (F.normalize(f, dim=1) for f in standardise(projected[:b], projected[b:]))
        # detached: gradients reach the coarser flow by the sum alone, else they explode along the warps
        with torch.autocast(
            projected.device.type, enabled=False
        ):  # bfloat16 knows the displacement to 0.015 px only
            corr = ops.local_correlation(source, ops.warp(target, flow.detach()), self.radius, self.block)
            displacement, peak = ops.soft_argmax(
                corr, self.log_temperature.exp().clamp(max=MAX_TEMPERATURE), self.radius
            )
        return corr, displacement, peak, context[:b]


class FlowHead(nn.Module):
    """Pyramids of two frames -> flow of frame 1 to frame 2 at full resolution."""

    def __init__(self, encoder: EncoderConfig, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        radii = (config.fine_radius, *(config.radius,) * 3)  # levels 2 (stride 4) to 5 (stride 32)
        pairs = zip(encoder.widths[1:5], radii, (4, 8, 16, 32), strict=True)
        self.matchers = nn.ModuleList(LevelMatcher(w, config, r, s) for w, r, s in pairs)
        dilations = (1,) * (len(config.widths) + 1)
        self.coarse = Estimator(input_dim(config, config.radius), config.widths, config.hidden_dim, dilations)
        self.squeeze = nn.Conv2d(input_dim(config, config.fine_radius), config.fine_widths[0], 1)
        self.fine = Estimator(config.fine_widths[0], config.fine_widths[1:], config.hidden_dim, (1, 2, 4))
        self.mask = nn.Conv2d(config.hidden_dim, 9 * FINEST_STRIDE**2, 1)

    def forward(self, feats1: list[Tensor], feats2: list[Tensor]) -> FlowOutput:
        """feats1, feats2: encoder pyramids, finest first. Every level clips the flow to config.max_flow."""
        b, _, h, w = feats1[COARSEST].shape
        nothing = ops.at_least_float32(feats1[COARSEST].new_zeros(()))
        flow = nothing.new_zeros(b, 2, h, w)
        hidden = nothing.new_zeros(b, self.config.hidden_dim, h, w)
        levels = []
        for level in range(COARSEST, 0, -1):
            if level < COARSEST:
                flow = ops.upsample_flow_bilinear(flow)
                hidden = F.interpolate(ops.at_least_float32(hidden), scale_factor=2.0, mode="nearest")
            flow, hidden = self._refine(level, feats1[level], feats2[level], flow, hidden)
            levels.append(flow)
        full = ops.convex_upsample(flow, ops.at_least_float32(self.mask(hidden)), FINEST_STRIDE)
        return FlowOutput(full, levels)

    def _refine(
        self, level: int, feats1: Tensor, feats2: Tensor, flow: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor]:
        corr, displacement, peak, context = self.matchers[level - 1](feats1, feats2, flow)
        limit = self.config.max_flow / 2 ** (level + 1)  # px of this level
        flow = (flow + displacement).clamp(-limit, limit)
        x = torch.cat([corr, context, flow / 8.0, displacement, peak, hidden], dim=1)
        hidden, residual = self.fine(self.squeeze(x)) if level == 1 else self.coarse(x)
        return (flow + ops.at_least_float32(residual)).clamp(-limit, limit), hidden
