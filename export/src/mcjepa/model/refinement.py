"""Variational refinement: the last fractions of a pixel come from the images, not from what was learnt.

The energy is that of Brox et al. (2004): what is constant along the flow is the gradient of the image, not
its brightness; both this and smoothness are judged robustly; frames are warped anew at each step. Its two
equations are normalised by their own gradients (Zimmer et al., 2011). Smoothness compares a vector with the
5x5 around it and not with its four neighbours, which takes fewer iterations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcjepa import ops
from mcjepa.model.stillness import Stillness

LUMINANCE = (0.299, 0.587, 0.114)  # of R, G, B (ITU-R BT.601)
STEPS_AT_4, STEPS_AT_2 = (6, 6, 6), (4, 4)  # iterations of each step at strides 4 and 2
MOMENTUM = 0.8  # of the iterations, below 1
WINDOW = 5  # side of the surroundings that a vector is compared with
SMOOTHNESS = 2.0  # its weight
SMOOTHNESS_SCALE = 0.1  # px per px: steeper flow is an edge and may stay
RESIDUAL_SCALE = 0.3  # px: a match that is further off is an outlier
FLAT = 1.0  # grey levels per px^2, squared: gradients that change less say nothing


class Refinement(nn.Module):
    """Has nothing to learn; the constants are buffers, so that a CUDA graph can be recorded."""

    luminance: Tensor  # (1, 3)
    derivatives: Tensor  # (5, 2, 5, 5)
    swapped: Tensor  # (2,) indices

    def __init__(self, max_flow: float) -> None:
        super().__init__()
        self.max_flow = max_flow
        self.stillness = Stillness()
        self.register_buffer("luminance", torch.tensor([LUMINANCE]), persistent=False)
        self.register_buffer("derivatives", derivatives(), persistent=False)
        self.register_buffer("swapped", torch.tensor([1, 0]), persistent=False)

    def grey(self, images: Tensor) -> Tensor:
        """Frames (B, 3, H, W), RGB 0 .. 255 -> luminance at stride 2, means of 2x2: (B, 1, H / 2, W / 2)."""
        b, _, h, w = images.shape
        values = images.to(self.luminance.dtype).flatten(2)
        return F.avg_pool2d((self.luminance @ values).reshape(b, 1, h, w), 2)

    def forward(self, grey1: Tensor, grey2: Tensor, flow: Tensor, scale: float = 1.0) -> Tensor:
        """Grey frames (B, 1, H / 2, W / 2), flow (B, 2, s H / 8, s W / 8) px of its grid -> (B, 2, H, W) px.

        scale: s, 1 to 2, by which the frames were enlarged when they were matched at stride 8.
        Where nothing moves it is 0 (`stillness.py`). No component of the result is beyond `max_flow`.
        """
        coarse1, coarse2 = F.avg_pool2d(grey1, 2), F.avg_pool2d(grey2, 2)
        if scale == 1.0:
            flow = ops.upsample_flow_bilinear(flow)
        elif scale != 2.0:
            size = coarse1.shape[-2:]
            flow = F.interpolate((2.0 / scale) * flow, size=size, mode="bilinear", align_corners=False)
        for iterations in STEPS_AT_4:
            flow = self.step(coarse1, coarse2, flow, iterations)
        flow = ops.upsample_flow_bilinear(flow)
        for iterations in STEPS_AT_2:
            flow = self.step(grey1, grey2, flow, iterations)
        factor, doubt = self.stillness(coarse1, coarse2)
        flow = flow * F.interpolate(factor, scale_factor=8.0, mode="nearest") + doubt / 2
        limit = self.max_flow / 2  # px of stride 2
        return ops.upsample_flow_bilinear(flow.clamp(-limit, limit))

    def step(self, img1: Tensor, img2: Tensor, flow: Tensor, iterations: int) -> Tensor:
        """A flow of less energy: img1, img2 (B, 1, H, W) in 0 .. 255, flow (B, 2, H, W) px -> the same.

        Jacobi iterations with momentum towards the least energy about `flow`, weights held. At each position
        (A + D) u = A flow - b + mean(q u), A and b of the data, q the weight of smoothness, D = mean(q).
        """
        diagonal, xy, b = self.data_term(img1, ops.warp(img2, flow))
        q = smoothness_weight(flow)
        d = mean_around(q)
        diagonal = diagonal + d
        xx, yy = diagonal.split(1, dim=1)
        scale = (1.0 + MOMENTUM) / (xx * yy - xy * xy)
        direct, crossed = self.swap(diagonal) * scale, xy * scale

        def solve(vectors: Tensor) -> Tensor:  # (1 + MOMENTUM) (A + D)^-1 vectors
            return direct * vectors - crossed * self.swap(vectors)

        # (A + D)^-1 A flow = flow - (A + D)^-1 D flow
        fixed = (1.0 + MOMENTUM) * flow - solve(d * flow + b)
        before = flow
        for _ in range(iterations):
            after = solve(mean_around(q * flow)) + fixed - MOMENTUM * before
            before, flow = flow, after
        return flow

    def swap(self, vectors: Tensor) -> Tensor:
        """(x, y) -> (y, x): (B, 2, H, W)."""
        return vectors.index_select(1, self.swapped)

    def data_term(self, img1: Tensor, warped: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(xx, yy) (B, 2, H, W) and xy (B, 1, H, W) of A, and b (B, 2, H, W), at each position, weighted.

        Of the equations i_xx u + i_xy v + i_xt = 0 and i_xy u + i_yy v + i_yt = 0, (u, v) the change of flow;
        both are treated at once, as two channels.
        """
        frames = F.pad(torch.cat([img1, warped], dim=1), [2] * 4, mode="replicate")
        second, mixed, change = F.conv2d(frames, self.derivatives).split((2, 1, 2), dim=1)
        weight = robust_weight(second * second + (mixed * mixed + FLAT), change)
        along, across = weight * second, weight * mixed
        one, two = along.split(1, dim=1)
        return (
            along * second + self.swap(across * mixed),
            (one + two) * mixed,
            along * change + self.swap(across * change),
        )


def derivatives() -> Tensor:
    """Kernels (5, 2, 5, 5) for two frames: xx, yy and xy of their mean, x and y of their difference.

    Central differences; second ones are those of first ones.
    """
    here, first, second = torch.tensor(
        [[0.0, 0.0, 1.0, 0.0, 0.0], [0.0, -0.5, 0.0, 0.5, 0.0], [0.25, 0.0, -0.5, 0.0, 0.25]]
    )
    of_mean = [torch.outer(y, x) / 2 for y, x in ((here, second), (second, here), (first, first))]
    of_change = [torch.outer(y, x) for y, x in ((here, first), (first, here))]
    return torch.stack([torch.stack([k, k]) for k in of_mean] + [torch.stack([-k, k]) for k in of_change])


def robust_weight(size: Tensor, change: Tensor) -> Tensor:
    """Of an equation whose squared gradient is `size`: with r = change / sqrt(size) px,
    1 / (size * sqrt(r^2 + RESIDUAL_SCALE^2)).
    """
    return torch.rsqrt(size * (change * change + RESIDUAL_SCALE**2 * size))


def smoothness_weight(flow: Tensor) -> Tensor:
    """(B, 2, H, W) px -> (B, 1, H, W): SMOOTHNESS / sqrt(|gradient of the flow|^2 + SMOOTHNESS_SCALE^2)."""
    padded = F.pad(flow, [1] * 4, mode="replicate")
    across = ops.window(padded, 1, 2) - ops.window(padded, 1, 0)  # over 2 px
    down = ops.window(padded, 2, 1) - ops.window(padded, 0, 1)
    x, y = (across * across + down * down).split(1, dim=1)
    scale = 1.0 / SMOOTHNESS
    return torch.rsqrt((x + y) * (scale / 2) ** 2 + (scale * SMOOTHNESS_SCALE) ** 2)


def mean_around(x: Tensor) -> Tensor:
    """Mean over the window around each position; what is outside the frame counts as 0."""
    return F.avg_pool2d(x, WINDOW, stride=1, padding=WINDOW // 2)
