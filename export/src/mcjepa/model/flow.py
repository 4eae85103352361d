"""Flow head: coarse-to-fine matching and refinement over the pyramid.

After PWC-Net (Sun et al., 2018): warp, local correlation, estimator, residual flow. Two things differ: the
features that are matched are projected, standardised over the pair and l2-normalised, and the soft-argmax of
the correlation moves the flow before the estimator sees it, so that the estimator only corrects and fills in.
One estimator, and one look at what is far around, serve strides 32 to 8. What is finer is left to the images
themselves (`refinement.py`).
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcjepa import ops
from mcjepa.config import EncoderConfig, FlowConfig
from mcjepa.model.encoder import LayerNorm2d
from mcjepa.model.matching import standardise
from mcjepa.quality import FAST, TRAINED, Quality

MAX_TEMPERATURE = 100.0  # of cosines
BLOCK = 8  # positions that a matrix product of the correlation takes together
FAR = (2, 4, 8, 1)  # dilations: 15 positions to each side
READ = 10  # channels of the projection that the surroundings see, at most
MATCHED = 6  # channels that say where a match stands: flow, displacement, peak, inside
COARSEST = 4  # index of the level of stride 32, where matching starts: radius 4 reaches 128 px there
FINEST = 2  # index of the level of stride 8, where it ends


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
        head = nn.Conv2d(hidden_dim, 2, 3, padding=1)
        nn.init.zeros_(head.weight)  # training starts from pure matching
        nn.init.zeros_(head.bias)  # type: ignore[arg-type]
        self.head = head

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x)
        return hidden, self.head(hidden)


class Surroundings(nn.Module):
    """Dilated convolutions: what is hidden, or leaves the frame, takes its flow from far around.

    After the context network of PWC-Net (Sun et al., 2018, section 3); at each level of the coarse estimator.
    """

    def __init__(self, in_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.far = Estimator(in_dim, (hidden_dim,) * (len(FAR) - 1), hidden_dim, FAR)
        self.hidden = nn.Conv2d(hidden_dim, hidden_dim, 1)
        nn.init.zeros_(self.hidden.weight)
        nn.init.zeros_(self.hidden.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in_dim, H, W) -> to add: to hidden state (B, hidden_dim, H, W) and flow (B, 2, H, W) px."""
        far, residual = self.far(x)
        return self.hidden(far), residual


def context_dim(config: FlowConfig) -> int:
    """Channels of the projection: those matched, and what brings `input_dim` to a multiple of 16."""
    return config.match_dim - (_described_dim(config) + config.match_dim) % -16


def input_dim(config: FlowConfig) -> int:
    """Channels that are squeezed for the estimator; convolutions are fastest with multiples of 16."""
    return _described_dim(config) + context_dim(config)


def _described_dim(config: FlowConfig) -> int:
    """Correlation, how the match stands, hidden state of the coarser level."""
    return (2 * config.radius + 1) ** 2 + MATCHED + config.hidden_dim


class LevelMatcher(nn.Module):
    """Matching at one level: normalised features, correlation, expected displacement; in float32.

    A level of a pyramid goes through `project`, whose first channels are matched; estimators read them all.
    """

    def __init__(self, dim: int, config: FlowConfig, stride: int) -> None:
        super().__init__()
        self.radius, self.stride = config.radius, stride
        self.block = min(BLOCK, 64 // stride)  # H and W of the frames are multiples of 64
        self.match_dim = config.match_dim
        self.project = nn.Conv2d(dim, context_dim(config), 1)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature)))

    def prepare(self, map1: Tensor, map2: Tensor) -> tuple[Tensor, Tensor]:
        """Projected features -> what is matched of each frame, (B, `match_dim`, H, W) of length 1."""
        source, target = standardise(map1[:, : self.match_dim], map2[:, : self.match_dim])
        with torch.autocast(map1.device.type, enabled=False):
            return ops.normalise(source), ops.normalise(target)

    def forward(
        self, source: Tensor, target: Tensor, flow: Tensor, scale: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What `prepare` gives, and a flow (B, 2, H, W) px to start from, of which no gradient is taken.

        scale: by which the frames were enlarged, which says what the sizes are multiples of.
        corr (B, (2r+1)^2, H, W), displacement (B, 2, H, W) px, peak (B, 1, H, W).
        """
        # detached: gradients reach the coarser flow by the sum alone, else they explode along the warps
        with torch.autocast(source.device.type, enabled=False):  # bfloat16 is 0.015 px off at best
            warped = ops.warp(target, flow.detach())
            temperature = self.log_temperature.exp().clamp(max=MAX_TEMPERATURE)
            block = math.gcd(self.block, round(scale * 64 / self.stride))
            return ops.match(source, warped, self.radius, block, temperature)


class LevelUpdate(nn.Module):
    """Correct the flow of a level: match, estimate, look around. The weights serve all levels alike."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        dilations = (1,) * (len(config.widths) + 1)
        # What the estimator is told says much twice: the correlations are 81 samples of a smooth surface.
        self.squeeze = nn.Conv2d(input_dim(config), config.bottleneck, 1, bias=False)
        self.coarse = Estimator(config.bottleneck, config.widths, config.hidden_dim, dilations)
        seen = MATCHED + min(READ, context_dim(config))
        self.surroundings = Surroundings(config.hidden_dim + seen, config.hidden_dim)

    def correct(
        self,
        matcher: LevelMatcher,
        map1: Tensor,
        matched: tuple[Tensor, Tensor],
        flow: Tensor,
        hidden: Tensor,
        scale: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Flow (B, 2, h, w) px of the level and hidden state (B, hidden_dim, h, w) -> the next ones.

        map1: what `matcher.project` gives of frame 1; matched: what `matcher.prepare` gives of both frames;
        scale: by which the frames were enlarged.
        """
        corr, displacement, peak = matcher(*matched, flow, scale)
        limit = scale * self.config.max_flow / matcher.stride  # px of this level
        inside = ops.inside(flow)
        flow = (flow + displacement).clamp(-limit, limit)
        match = torch.cat([flow / 8.0, displacement, peak, inside], dim=1)  # (B, MATCHED, H, W)
        hidden, residual = self.coarse(self.squeeze(torch.cat([corr, map1, match, hidden], dim=1)))
        flow = flow + ops.at_least_float32(residual)
        x = torch.cat([hidden, flow / 8.0, displacement, peak, inside, map1[:, -READ:]], dim=1)
        more, residual = self.surroundings(x)
        hidden, flow = hidden + more, flow + ops.at_least_float32(residual)
        return flow.clamp(-limit, limit), hidden

    def repeat(
        self,
        matcher: LevelMatcher,
        map1: Tensor,
        map2: Tensor,
        flow: Tensor,
        hidden: Tensor,
        passes: int,
        scale: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Go through one level `passes` times: what starts nearer is matched better.

        map1, map2: what `matcher.project` gives of the frames; flow, hidden and scale as in `correct`.
        """
        matched = matcher.prepare(map1, map2)
        for _ in range(passes):
            flow, hidden = self.correct(matcher, map1, matched, flow, hidden, scale)
        return flow, hidden


def to_finer(flow: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Flow and hidden state of a level at twice the resolution, the flow in px of that grid."""
    finer = F.interpolate(ops.at_least_float32(hidden), scale_factor=2.0, mode="nearest")
    return ops.upsample_flow_bilinear(flow), finer


def to_details(flow: Tensor, hidden: Tensor, details: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Flow and hidden state of stride 8 on the grid of what is matched of frames enlarged `scale` times."""
    size = details.shape[-2:]
    finer = F.interpolate(ops.at_least_float32(hidden), size=size, mode="nearest")
    return F.interpolate(scale * flow, size=size, mode="bilinear", align_corners=False), finer


class FlowHead(LevelUpdate):
    """Pyramids of two frames -> flow of frame 1 to frame 2, coarse to fine.

    The flows of strides s = 32, 16 and 8, (B, 2, H / s, W / s) px of their own grids.
    """

    def __init__(self, encoder: EncoderConfig, config: FlowConfig) -> None:
        pairs = zip(encoder.widths[FINEST : COARSEST + 1], (8, 16, 32), strict=True)
        matchers = [LevelMatcher(width, config, stride) for width, stride in pairs]
        super().__init__(config)
        self.matchers = nn.ModuleList(matchers)

    def forward(self, feats1: list[Tensor], feats2: list[Tensor]) -> list[Tensor]:
        """feats1, feats2: encoder pyramids, finest first. Every level clips the flow to config.max_flow."""
        return self.match(self.project(feats1), self.project(feats2), TRAINED)

    def project(self, feats: list[Tensor]) -> list[Tensor]:
        """Pyramid of frames -> what is matched and read of each, whatever its pair.

        Maps (B, `context_dim`, H / s, W / s) of strides s = 8, 16 and 32, in this order.
        """
        return [
            ops.at_least_float32(matcher.project(f))  # type: ignore[operator]
            for matcher, f in zip(self.matchers, feats[FINEST : COARSEST + 1], strict=True)
        ]

    @property
    def finest(self) -> LevelMatcher:
        """Return the matcher of stride 8, which serves enlarged frames, too."""
        return cast(LevelMatcher, self.matchers[0])

    def match(self, maps1: list[Tensor], maps2: list[Tensor], quality: Quality = FAST) -> list[Tensor]:
        """As forward, of the maps that `project` gives for frame 1 and for frame 2.

        Where the quality has detail passes, a fourth map of each frame is what `finest.project` gives of it
        enlarged, and a fourth flow, on the grid of that map, is the result.
        """
        coarsest = maps1[COARSEST - FINEST]
        b, _, h, w = coarsest.shape
        flow = coarsest.new_zeros(b, 2, h, w)
        hidden = coarsest.new_zeros(b, self.config.hidden_dim, h, w)
        levels: list[Tensor] = []
        for i in reversed(range(len(self.matchers))):
            if levels:
                flow, hidden = to_finer(flow, hidden)
            matcher, passes = cast(LevelMatcher, self.matchers[i]), 1 if i else quality.passes
            flow, hidden = self.repeat(matcher, maps1[i], maps2[i], flow, hidden, passes)
            levels.append(flow)
        if quality.detail_passes:
            scale, passes = quality.detail_scale, quality.detail_passes
            flow, hidden = to_details(flow, hidden, maps1[-1], scale)
            flow, _ = self.repeat(self.finest, maps1[-1], maps2[-1], flow, hidden, passes, scale)
            levels.append(flow)
        return levels
