"""The loss terms, each a pure function; the total in the order of MC-JEPA's equation 7, ours at the end.

L = L_flow + lambda * L_content. Images here are float RGB in 0 .. 1, flow is (B, 2, H, W) px, masks are
(B, 1, H, W) with 1.0 where a pixel counts. Every term is a mean, so its size does not depend on batch or
image size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from mcjepa import ops
from mcjepa.config import LossConfig

EDGE_SHARPNESS = 10.0  # smoothness weight exp(-10 |dI|), images in 0 .. 1
HINGE_EPS = 1e-4  # inside the square root of VICReg's variance


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over all channels and batch of the pixels where mask (B, 1, H, W) is 1; 0 where none is."""
    total = (values * mask).sum()
    return total / (mask.sum() * values.shape[1]).clamp(min=1.0)


def ssim_distance(img1: Tensor, img2: Tensor) -> Tensor:
    """(1 - SSIM) / 2 in 0 .. 1 with 3x3 windows: (B, C, H, W) x 2 -> (B, C, H, W) (Wang et al., 2004)."""
    c1, c2 = 0.01**2, 0.03**2

    def blur(x: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(x, [1] * 4, mode="reflect"), 3, stride=1)

    mu1, mu2 = blur(img1), blur(img2)
    var1, var2 = blur(img1 * img1) - mu1 * mu1, blur(img2 * img2) - mu2 * mu2
    cov = blur(img1 * img2) - mu1 * mu2
    ssim = (2 * mu1 * mu2 + c1) * (2 * cov + c2) / ((mu1**2 + mu2**2 + c1) * (var1 + var2 + c2))
    return ((1 - ssim) / 2).clamp(0.0, 1.0)


def photometric(img1: Tensor, img2: Tensor, flow12: Tensor, visible: Tensor) -> Tensor:
    """L_rec: L1 + MSE + SSIM distance between frame 1 and frame 2 warped to it, where visible."""
    warped = ops.warp(img2, flow12)
    gap = img1 - warped
    return masked_mean(gap.abs() + gap.square() + ssim_distance(img1, warped), visible)


def resize_flow(flow: Tensor, like: Tensor) -> Tensor:
    """Flow at the resolution of `like`, averaged, values in px of that grid."""
    return F.adaptive_avg_pool2d(flow, (like.shape[-2], like.shape[-1])) * (like.shape[-1] / flow.shape[-1])


def level_mask(visible: Tensor, flow: Tensor) -> Tensor:
    """What counts at a level: the visible share of each position, 0 where its flow leaves the frame.

    visible (B, 1, H, W), flow (B, 2, H/s, W/s) px of the level -> (B, 1, H/s, W/s).
    """
    return F.adaptive_avg_pool2d(visible, (flow.shape[-2], flow.shape[-1])) * ops.inside(flow)


def feature_regression(
    feats1: Sequence[Tensor], feats2: Sequence[Tensor], flow12: Tensor, visible: Tensor
) -> Tensor:
    """L_reg: mean over levels of || X_1 - warp(X_2) ||^2 (per channel), where visible (the mask is ours)."""
    terms = []
    for f1, f2 in zip(feats1, feats2, strict=True):
        flow = resize_flow(flow12, f1)
        terms.append(masked_mean((f1 - ops.warp(f2, flow)).square(), level_mask(visible, flow)))
    return torch.stack(terms).mean()


def smoothness(flow: Tensor, img: Tensor) -> Tensor:
    """L_smooth: edge-aware smoothness, exp(-10 |dI|) |df| (Wang et al., 2018; Jonschkowski et al., 2020)."""
    terms = []
    for axis in (-1, -2):
        edge = img.diff(dim=axis).abs().mean(1, keepdim=True)
        terms.append((torch.exp(-EDGE_SHARPNESS * edge) * flow.diff(dim=axis).abs()).mean())
    return terms[0] + terms[1]


def cycle_consistency(feats1: Sequence[Tensor], flow12: Tensor, flow21: Tensor) -> Tensor:
    """L_cycle: mean over levels of || X_1 - X_1 warped to frame 2 and back ||^2, where the flow stays inside.

    Not masked by visibility: there the two flows agree already, which would leave nothing to learn.
    """
    terms = []
    for f1 in feats1:
        there, back = resize_flow(flow21, f1), resize_flow(flow12, f1)
        gap = f1 - ops.warp(ops.warp(f1, there), back)
        terms.append(masked_mean(gap.square(), ops.inside(back)))
    return torch.stack(terms).mean()


def variance(x: Tensor) -> Tensor:
    """Hinge on the standard deviation of every dimension, max(0, 1 - std): (N, D) -> scalar (VICReg)."""
    return F.relu(1.0 - torch.sqrt(x.var(dim=0) + HINGE_EPS)).mean()


def covariance(x: Tensor) -> Tensor:
    """Sum of squared off-diagonal covariances over D: (N, D) -> scalar (VICReg, equations 3 and 4)."""
    n, d = x.shape
    centred = x - x.mean(dim=0)
    cov = centred.T @ centred / (n - 1)
    return (cov.square().sum() - cov.diagonal().square().sum()) / d


def variance_covariance(feats: Sequence[Tensor], config: LossConfig) -> Tensor:
    """L_vc: variance and covariance of every level, over batch and positions, with a weight a level."""
    total = feats[0].new_zeros(())
    for f, var_weight, cov_weight in zip(feats, config.variance, config.covariance, strict=True):
        x = f.permute(0, 2, 3, 1).flatten(0, 2)  # (B * H * W, C)
        if var_weight > 0:
            total = total + var_weight * variance(x)
        if cov_weight > 0:
            total = total + cov_weight * covariance(x)
    return total


def known_motion(flow: Tensor, truth: Tensor) -> Tensor:
    """Ours: mean of (|du| + |dv| + 0.01)^0.7 px against a known flow, a robust loss after PWC-Net's."""
    return _robust_distance(flow, truth).mean()


def distillation(flow: Tensor, taught: Tensor, visible: Tensor) -> Tensor:
    """Ours, after ARFlow (Liu et al., 2020): `known_motion` to a taught flow, where that is visible."""
    return masked_mean(_robust_distance(flow, taught), visible)


def _robust_distance(flow: Tensor, truth: Tensor) -> Tensor:
    """(B, 2, H, W) px twice -> (B, 1, H, W)."""
    return ((flow - truth).abs().sum(1, keepdim=True) + 0.01).pow(0.7)


def known_motion_levels(levels: Sequence[Tensor], truth: Tensor, decay: float = 1.0) -> Tensor:
    """The weighted sum of `known_motion` over the flows on the way, each scaled to px of full size.

    The last one counts once, each earlier one `decay` times the next (RAFT, Teed and Deng, 2020, equation 7).
    """
    terms = []
    for i, flow in enumerate(reversed(levels)):
        stride = truth.shape[-1] / flow.shape[-1]
        mean = F.adaptive_avg_pool2d(truth, (flow.shape[-2], flow.shape[-1]))
        terms.append(decay**i * known_motion(flow * stride, mean))
    return torch.stack(terms).sum()


@dataclass(frozen=True)
class VideoBatch:
    """What the unlabelled flow terms look at, for pairs taken in both directions (B = 2 x pairs)."""

    img1: Tensor  # (B, 3, H, W) 0 .. 1
    img2: Tensor
    feats1: Sequence[Tensor]
    feats2: Sequence[Tensor]
    flow12: Tensor  # (B, 2, H, W) px
    flow21: Tensor

    @cached_property
    def visible(self) -> Tensor:
        """(B, 1, H, W), 1.0 where a pixel of frame 1 is seen in frame 2; without gradient."""
        with torch.no_grad():
            return ops.occlusion_mask(self.flow12, self.flow21)


def video_terms(batch: VideoBatch, config: LossConfig) -> dict[str, Tensor]:
    """The weighted terms of L_flow on video pairs, in the paper's order; weight 0 skips a term."""
    terms: dict[str, Tensor] = {}
    if config.photometric > 0:
        rec = photometric(batch.img1, batch.img2, batch.flow12, batch.visible)
        terms["photometric"] = config.photometric * rec
    if config.feature > 0:
        reg = feature_regression(batch.feats1, batch.feats2, batch.flow12, batch.visible)
        terms["feature"] = config.feature * reg
    if config.smoothness > 0:
        terms["smoothness"] = config.smoothness * smoothness(batch.flow12, batch.img1)
    if config.cycle > 0:
        terms["cycle"] = config.cycle * cycle_consistency(batch.feats1, batch.flow12, batch.flow21)
    if any(config.variance) or any(config.covariance):
        terms["variance_covariance"] = variance_covariance(batch.feats1, config)
    return terms


def known_motion_terms(
    flow: Tensor, levels: Sequence[Tensor], truth: Tensor, config: LossConfig
) -> dict[str, Tensor]:
    """The weighted terms on known-motion pairs."""
    terms: dict[str, Tensor] = {}
    if config.known_motion > 0:
        terms["known_motion"] = config.known_motion * known_motion(flow, truth)
    if config.known_motion_levels > 0:
        terms["known_motion_levels"] = config.known_motion_levels * known_motion_levels(
            levels, truth, config.known_motion_decay
        )
    return terms


def content_terms(z1: Tensor, z2: Tensor, config: LossConfig) -> dict[str, Tensor]:
    """The weighted terms of L_content, VICReg (Bardes, Ponce and LeCun, 2022); weight 0 skips a term.

    z1, z2 (B, E): expanded embeddings of two views.
    """
    terms: dict[str, Tensor] = {}
    if config.invariance > 0:
        terms["invariance"] = config.invariance * F.mse_loss(z1, z2)
    if config.content_variance > 0:
        terms["content_variance"] = config.content_variance * (variance(z1) + variance(z2)) / 2
    if config.content_covariance > 0:
        terms["content_covariance"] = config.content_covariance * (covariance(z1) + covariance(z2))
    return terms


def total(terms: dict[str, Tensor], weight: float) -> Tensor:
    """Sum of the terms times the weight of their group (`loss.flow` or `loss.content`)."""
    return weight * torch.stack(list(terms.values())).sum()
