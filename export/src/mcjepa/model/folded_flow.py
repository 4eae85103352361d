"""The flow head at its two finest levels, which take most of its time: what becomes of it for the export.

There a projected map is standardised for matching in as many passes as it took to project it. But mean and
variance of a projection follow from mean and covariance of what is projected, which are small; so the
projection can standardise as it goes. What estimators read of frame 1 is projected on its own.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcjepa import ops
from mcjepa.model.flow import (
    EPS,
    FINEST_STRIDE,
    MATCHED,
    FlowHead,
    LevelMatcher,
    Matched,
    Squeeze,
    Upsampling,
)


def fold_head(head: FlowHead) -> None:
    """In place. Where `project` is then nothing, `matched` and `read` take the level itself."""
    finest, second = (cast(LevelMatcher, matcher) for matcher in head.matchers[:2])  # strides 4 and 8
    head.squeeze = FoldedSqueeze(cast(Squeeze, head.squeeze), _project_when_matched(finest), finest.radius)
    second.read = _project_when_matched(second)
    head.mask = FoldedUpsampling(cast(Upsampling, head.mask))


def _project_when_matched(matcher: LevelMatcher) -> nn.Conv2d:
    """In place, and the projection is handed back for what is read."""
    project = cast(nn.Conv2d, matcher.project)
    matcher.matched = StandardisedProjection(project, cast(Matched, matcher.matched).match_dim)
    matcher.project = nn.Identity()
    return project


class StandardisedProjection(nn.Module):
    """`Matched` of the projections of two maps, in one matrix product a map, channels last."""

    weight: Tensor  # (C, M)
    ones: Tensor  # (1, C)

    def __init__(self, project: nn.Conv2d, match_dim: int) -> None:
        super().__init__()
        self.register_buffer("ones", project.weight.new_ones(1, project.in_channels))
        self.register_buffer("weight", project.weight[:match_dim].flatten(1).T.contiguous())

    def forward(self, map1: Tensor, map2: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) each -> (B, M, H, W) each."""
        h, w = map1.shape[2:]
        one, two = map1.flatten(2), map2.flatten(2)  # (B, C, H * W)
        mean = (one.mean(2, keepdim=True) + two.mean(2, keepdim=True)) / 2  # (B, C, 1)
        second = (one @ one.transpose(1, 2) + two @ two.transpose(1, 2)) / (2 * h * w)
        covariance = second - mean @ mean.transpose(1, 2)  # (B, C, C)
        # A product in place of a sum, which ONNX Runtime would round by its number of threads.
        variance = self.ones @ (self.weight * (covariance @ self.weight))  # (B, 1, M)
        weight = self.weight * torch.rsqrt(variance.clamp_min(0.0) + EPS)  # (B, C, M)
        offset = mean.transpose(1, 2) @ weight  # (B, 1, M)
        rows = (ops.normalise(m.transpose(1, 2) @ weight - offset, dim=2) for m in (one, two))
        source, target = (r.unflatten(1, (h, w)).permute(0, 3, 1, 2) for r in rows)
        return source, target


class FoldedSqueeze(nn.Module):
    """`Squeeze` part by part, on the level itself in place of its projection.

    Nothing large is put together first, and the sums go into the convolutions.
    """

    of_match: Tensor  # (O, corr + match + padding, 1, 1)
    of_level: Tensor  # (O, C, 1, 1)
    of_hidden: Tensor  # (O, hidden, 1, 1)
    bias: Tensor  # (O,)

    def __init__(self, squeeze: Squeeze, project: nn.Conv2d, radius: int) -> None:
        super().__init__()
        parts = ((2 * radius + 1) ** 2, project.out_channels, MATCHED)
        corr, read, match, hidden = squeeze.weight.split((*parts, squeeze.in_channels - sum(parts)), dim=1)
        self.padding = -(corr.shape[1] + MATCHED) % 4  # channels, of which runtimes want a multiple of 4
        none = match.new_zeros(len(match), self.padding, 1, 1)
        read = read.flatten(1)  # (O, channels of the projection)
        self.register_buffer("of_match", torch.cat([corr, match, none], dim=1))
        self.register_buffer("of_level", (read @ project.weight.flatten(1))[..., None, None])
        self.register_buffer("of_hidden", hidden.clone())
        self.register_buffer("bias", cast(Tensor, squeeze.bias) + read @ cast(Tensor, project.bias))

    def forward(self, corr: Tensor, level: Tensor, match: Tensor, hidden: Tensor) -> Tensor:
        """(B, (2r+1)^2, H, W), (B, C, H, W), (B, MATCHED, H, W), (B, hidden, H, W) -> (B, O, H, W)."""
        match = torch.cat([corr, match, match[:, : self.padding]], dim=1)
        return (
            F.conv2d(match, self.of_match, self.bias)
            + F.conv2d(level, self.of_level)
            + F.conv2d(hidden, self.of_hidden)
        )


class FoldedUpsampling(nn.Module):
    """`Upsampling` with a convolution for each of the nine neighbours: no output has to be cut apart."""

    def __init__(self, mask: Upsampling) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, flow: Tensor, hidden: Tensor) -> Tensor:
        """(B, 2, H / 4, W / 4) px of this grid, (B, hidden_dim, H / 4, W / 4) -> (B, 2, H, W) px."""
        weight, bias, n = self.mask.weight, cast(Tensor, self.mask.bias), FINEST_STRIDE**2
        logits = [F.conv2d(hidden, weight[k : k + n], bias[k : k + n]) for k in range(0, 9 * n, n)]
        return ops.convex_upsample_by_neighbour(flow, logits, FINEST_STRIDE)


class FoldedDisplacement(nn.Module):
    """A 3x3 convolution to two channels as a 1x1 convolution to 18, each of which is then moved and added.

    Runtimes fill blocks of 16 channels: of so few, a 3x3 convolution costs as if there were 16.
    """

    weight: Tensor  # (18, C, 1, 1), tap by tap
    bias: Tensor  # (2, 1, 1)

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.register_buffer("weight", conv.weight.permute(2, 3, 0, 1).reshape(18, -1, 1, 1).clone())
        self.register_buffer("bias", cast(Tensor, conv.bias)[:, None, None].clone())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 2, H, W) px."""
        taps = F.pad(F.conv2d(x, self.weight), [1] * 4)
        moved = [ops.window(taps[:, 2 * k : 2 * k + 2], k // 3, k % 3) for k in range(9)]
        return sum(moved, self.bias)
