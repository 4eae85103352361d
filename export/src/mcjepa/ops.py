"""Pure tensor operations of the flow pipeline.

Convention: images and features are (B, C, H, W); flow is (B, 2, H, W) in pixels of its own grid, channel 0 is
dx (to the right), channel 1 is dy (down); pixel centres lie at integers; flow at (x, y) of frame 1 points to
(x + dx, y + dy) of frame 2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pixel_grid(like: Tensor) -> Tensor:
    """Pixel coordinates (1, 2, H, W), (x, y), of a tensor (..., H, W), in its dtype and on its device."""
    h, w = like.shape[-2:]
    ys = torch.arange(h, device=like.device, dtype=like.dtype)
    xs = torch.arange(w, device=like.device, dtype=like.dtype)
    return torch.stack([xs[None, :].expand(h, w), ys[:, None].expand(h, w)])[None]


def warp(feats2: Tensor, flow: Tensor) -> Tensor:
    """Sample frame 2 where the flow points: out(x) = feats2(x + flow(x)), bilinear.

    feats2 (B, C, H, W), flow (B, 2, H, W) px -> (B, C, H, W). Points outside take the nearest border value.
    """
    h, w = flow.shape[-2:]
    coords = pixel_grid(flow) + flow
    # grid_sample wants -1 .. 1; align_corners=True puts -1 and 1 on the centres of the border pixels
    x = coords[:, 0] * (2.0 / max(w - 1, 1)) - 1.0
    y = coords[:, 1] * (2.0 / max(h - 1, 1)) - 1.0
    grid = torch.stack([x, y], dim=-1)  # (B, H, W, 2)
    return F.grid_sample(feats2, grid, mode="bilinear", padding_mode="border", align_corners=True)


def inside(flow: Tensor) -> Tensor:
    """1.0 where the flow ends within the frame, else 0.0: (B, 2, H, W) px -> (B, 1, H, W)."""
    h, w = flow.shape[-2:]
    x, y = (pixel_grid(flow) + flow).unbind(1)
    ok = (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)
    return ok[:, None].to(flow.dtype)


def local_correlation(feats1: Tensor, feats2: Tensor, radius: int) -> Tensor:
    """Dot products of each position of frame 1 with the (2r+1)^2 positions around it in frame 2.

    feats1, feats2 (B, C, H, W) -> (B, (2r+1)^2, H, W); channel (dy + r) * (2r+1) + (dx + r) holds shift
    (dx, dy); zero outside the frame. Equation 2 of PWC-Net (Sun et al., 2018) without the 1/C, for normalised
    features.
    """
    h, w = feats1.shape[-2:]
    d = 2 * radius + 1
    padded = F.pad(feats2, [radius] * 4)
    columns = torch.stack([padded[..., j : j + w] for j in range(d)], dim=2)  # (B, C, d, H + 2r, W)
    rows = [(feats1.unsqueeze(2) * columns[:, :, :, i : i + h]).sum(1) for i in range(d)]  # each (B, d, H, W)
    return torch.cat(rows, dim=1)


def shift_vectors(radius: int, like: Tensor) -> Tensor:
    """The displacements (dx, dy) px of the channels of `local_correlation`: ((2r+1)^2, 2)."""
    r = torch.arange(-radius, radius + 1, device=like.device, dtype=like.dtype)
    dy, dx = torch.meshgrid(r, r, indexing="ij")
    return torch.stack([dx.flatten(), dy.flatten()], dim=1)


def upsample_flow_bilinear(flow: Tensor) -> Tensor:
    """Twice the resolution and twice the values: (B, 2, H, W) -> (B, 2, 2H, 2W)."""
    return 2.0 * F.interpolate(flow, scale_factor=2.0, mode="bilinear", align_corners=False)


def convex_upsample(flow: Tensor, mask: Tensor, factor: int) -> Tensor:
    """Learned upsampling: each fine vector is a convex combination of the 3x3 coarse ones around it.

    flow (B, 2, H, W) px, mask (B, 9 * factor^2, H, W) logits -> (B, 2, factor * H, factor * W) px of the fine
    grid. After RAFT (Teed and Deng, 2020), section 3.3.
    """
    b, _, h, w = flow.shape
    padded = F.pad(factor * flow, [1] * 4, mode="replicate")
    neighbours = torch.stack([padded[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)], dim=2)
    weights = mask.reshape(b, 9, factor * factor, h, w).softmax(dim=1)
    fine = [(weights * neighbours[:, c].unsqueeze(2)).sum(1) for c in range(2)]  # each (B, factor^2, H, W)
    return torch.cat([F.pixel_shuffle(f, factor) for f in fine], dim=1)


def occlusion_mask(flow12: Tensor, flow21: Tensor) -> Tensor:
    """1.0 where a point of frame 1 is visible in frame 2, else 0.0: forward-backward consistency.

    flow12, flow21 (B, 2, H, W) px -> (B, 1, H, W). Visible: |f + b|^2 < 0.01 (|f|^2 + |b|^2) + 0.5 px^2,
    after Sundaram, Brox and Keutzer (2010), and the flow ends inside the frame.
    """
    back = warp(flow21, flow12)
    gap = (flow12 + back).square().sum(1, keepdim=True)
    size = flow12.square().sum(1, keepdim=True) + back.square().sum(1, keepdim=True)
    return (gap < 0.01 * size + 0.5).to(flow12.dtype) * inside(flow12)
