"""Where the frames themselves say that nothing moves, or say nothing at all, no motion is claimed.

Matching has an answer for every pixel, also where there is nothing to match: between two equal frames of
one colour it found 4 to 36 px. Here the evidence around a pixel decides, the nearer the more. Let d be how
the frames differ and T the structure tensor of their gradients, each summed over the surroundings. Motion
by u makes sum(d^2) = u'Tu at least least(T) |u|^2, least(T) the lesser eigenvalue (Lucas and Kanade, 1981).
So sqrt(sum(d^2) / least(T)) is the most that the surroundings can have moved.

Inside a plain object that moves both sums are those of its outline, far nearer than anything that stands: its
flow stays. A plain wall between things that stand is still. Where everything is equal, d is 0 everywhere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcjepa import ops

CELL = 4  # positions of stride 4 along the side of a cell, which is decided as one: 16 px of the frame
STILL = 0.05 / 4  # px of stride 4: surroundings that can have moved by no more are still
WINDOWS = (3, 7, 15, 31, 63)  # sides of the surroundings, in cells; then the whole frame
FADING = 1 / 16  # weight of each of them relative to the one before
BORDER = 128.0**2  # the frame's border, where it is equal, counts as the strongest of corners that stand
EVEN = 0.2  # grey levels per px of stride 4, squared: no cell of 32 px of an even frame has more
ALIKE = 2.0**2  # grey levels squared: even frames that differ by less are the more alike
DOUBT = 0.35  # px


class Stillness(nn.Module):
    """Has nothing to learn; the kernels are a buffer, so that a CUDA graph can be recorded."""

    kernels: Tensor  # (5, 2, 3, 3)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernels", _kernels(), persistent=False)

    def forward(self, grey1: Tensor, grey2: Tensor) -> tuple[Tensor, Tensor]:
        """Grey frames at stride 4, (B, 1, H / 4, W / 4), 0 .. 255 -> a factor of the flow, and what to add.

        The factor (B, 1, H / 16, W / 16) is 0 where nothing moves, 1 where something may. Where a frame is
        even all over there is nothing to match: the factor is 0 everywhere, and (B, 1, 1, 1) px are added to
        both components, `DOUBT` unless the frames are alike. They are the same in both directions, so that
        flow and backward flow contradict each other, which is how hidden points are told.
        """
        frames = F.pad(torch.cat([grey1, grey2], dim=1), [1] * 4, mode="replicate")
        found = F.conv2d(frames, self.kernels)  # (B, 5, H / 4, W / 4)
        change, x1, y1, x2, y2 = found.split(1, dim=1)
        squares = F.avg_pool2d(torch.cat([found * found, x1 * y1 + x2 * y2], dim=1), CELL)
        difference, xx1, yy1, xx2, yy2, xy = squares.split(1, dim=1)
        stands = BORDER * _border(difference) * (F.max_pool2d(change.abs(), CELL) < 1e-3)
        sums = [difference, (xx1 + xx2) / 2 + stands, xy / 2, (yy1 + yy2) / 2 + stands]
        differing, xx, xy, yy = _around(torch.cat(sums, dim=1)).split(1, dim=1)
        least = (xx + yy) / 2 - torch.sqrt(((xx - yy) / 2).square() + xy * xy)
        factor = (differing / (STILL**2 * least.clamp_min(0.0) + 1e-12) - 1.0).clamp(0.0, 1.0)
        gradients = torch.cat([xx1 + yy1, xx2 + yy2], dim=1)
        matchable = (F.avg_pool2d(gradients, 2).amax((2, 3), keepdim=True) > EVEN).all(dim=1, keepdim=True)
        matchable = matchable.to(factor.dtype)
        doubt = DOUBT * (difference.mean((2, 3), keepdim=True) / ALIKE).clamp_max(1.0)
        return factor * matchable, doubt * (1.0 - matchable)


def _kernels() -> Tensor:
    """For two frames: their difference, then the gradient (x, y) of the first and of the second."""
    here, slope = torch.tensor([[0.0, 1.0, 0.0], [-0.5, 0.0, 0.5]])
    point, x, y = torch.outer(here, here), torch.outer(here, slope), torch.outer(slope, here)
    none = torch.zeros(3, 3)
    pairs = [(-point, point), (x, none), (y, none), (none, x), (none, y)]
    return torch.stack([torch.stack(pair) for pair in pairs])


def _border(like: Tensor) -> Tensor:
    """1.0 in the outermost cells, else 0.0: (1, 1, H, W) of a tensor (B, 1, H, W)."""
    h, w = like.shape[2:]
    x, y = ops.pixel_grid(like).split(1, dim=1)
    return ((x < 1) | (x > w - 2) | (y < 1) | (y > h - 2)).to(like.dtype)


def _around(evidence: Tensor) -> Tensor:
    """Sums over all cells (B, C, H, W), weighted by about one over the sixth power of their distance."""
    total, weight = torch.zeros_like(evidence), 1.0
    for side in WINDOWS:
        rows = F.avg_pool2d(evidence, (side, 1), stride=1, padding=(side // 2, 0))
        total = total + weight * F.avg_pool2d(rows, (1, side), stride=1, padding=(0, side // 2))
        weight *= FADING
    return total + weight * evidence.mean((2, 3), keepdim=True)
