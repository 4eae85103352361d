"""The flow head at its finest level, which takes most of its time: what becomes of it for the export.

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
from mcjepa.model.flow import EPS, FlowHead, LevelMatcher, Matched


def fold_head(head: FlowHead) -> None:
    """In place. Where `project` is then nothing, `matched` and `read` take the level itself."""
    finest = cast(LevelMatcher, head.matchers[0])  # stride 8
    project = cast(nn.Conv2d, finest.project)
    finest.matched = StandardisedProjection(project, cast(Matched, finest.matched).match_dim)
    finest.project, finest.read = nn.Identity(), project


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
