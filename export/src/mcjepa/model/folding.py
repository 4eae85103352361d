"""The same function in fewer operations: what a model becomes for its export.

A runtime without a kernel for LayerNorm over the channels of (B, C, H, W) makes seven passes of it, which
cost far more than their arithmetic. What is linear in it moves into the convolutions beside it:

- of a convolution whose output is normalised, the mean over the output channels is taken off its weights;
- of one whose input was normalised, the mean over the input channels, and the norm's weight and bias go in;
- the scale of a residual, and the standard deviation of images, go into the convolution before and after it.

What is left is a division by the deviation.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcjepa.model.encoder import ConvNeXtBlock, LayerNorm2d
from mcjepa.model.flow import Estimator
from mcjepa.model.joint import MCJEPA, Normalisation


@torch.no_grad()
def folded(model: MCJEPA) -> MCJEPA:
    """A copy for inference that gives what `model` gives, but for rounding."""
    model = copy.deepcopy(model).eval()
    stem = cast(nn.Conv2d, model.encoder.down[0])
    stem.weight.div_(model.normalise.std)
    _fold_children(model)
    return model


def _fold_children(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, Normalisation):
            setattr(module, name, Centring(child))
        elif isinstance(child, ConvNeXtBlock):
            setattr(module, name, FoldedBlock(child))
        elif isinstance(child, Estimator):
            _fold_estimator(child)
        elif isinstance(child, LayerNorm2d):
            setattr(module, name, ChannelNorm(child))
        else:
            _fold_children(child)


def inverse_deviation(x: Tensor, eps: float, mean: Tensor | None = None) -> Tensor:
    """1 / sqrt(variance + eps) over the channels of (B, C, H, W), whose mean is 0 or given: (B, 1, H, W)."""
    deviation = torch.linalg.vector_norm(x, dim=1, keepdim=True) * x.shape[1] ** -0.5
    variance = deviation.square()
    if mean is not None:
        variance = (variance - mean.square()).clamp_min(0.0)
    return torch.rsqrt(variance + eps)


class Centring(nn.Module):
    """Images less their mean; the deviation is in the first convolution."""

    mean: Tensor

    def __init__(self, whole: Normalisation) -> None:
        super().__init__()
        self.register_buffer("mean", whole.mean)

    def forward(self, images: Tensor) -> Tensor:
        return images.float() - self.mean


class ChannelNorm(nn.Module):
    """LayerNorm2d with channels first."""

    def __init__(self, norm: LayerNorm2d) -> None:
        super().__init__()
        self.eps = norm.eps
        self.weight = nn.Parameter(norm.weight[:, None, None])
        self.bias = nn.Parameter(norm.bias[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        return centred * inverse_deviation(centred, self.eps) * self.weight + self.bias


class FoldedBlock(nn.Module):
    """ConvNeXtBlock: E(LN(y)) = E' (y / deviation) + b', and the layer scale within the last convolution."""

    def __init__(self, block: ConvNeXtBlock) -> None:
        super().__init__()
        self.depthwise, self.expand, self.reduce = block.depthwise, block.expand, block.reduce
        self.eps = block.norm.eps
        weight = self.expand.weight.flatten(1)  # (2C, C)
        _bias(self.expand).add_(weight @ block.norm.bias)
        weight = weight * block.norm.weight
        weight = weight - weight.mean(1, keepdim=True)
        self.expand.weight.copy_(weight[:, :, None, None])
        self.reduce.weight.mul_(block.scale[..., None])
        _bias(self.reduce).mul_(block.scale.flatten())

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x)
        y = y * inverse_deviation(y, self.eps, y.mean(1, keepdim=True))
        return x + self.reduce(F.hardswish(self.expand(y)))


def _fold_estimator(estimator: Estimator) -> None:
    """Its body is convolution, LayerNorm2d and LeakyReLU in turn."""
    convs, norms, activations = (list(estimator.body)[i::3] for i in range(3))
    layers = zip(convs, norms, activations, strict=True)
    estimator.body = nn.Sequential(
        *(FoldedLayer(cast(nn.Conv2d, c), cast(LayerNorm2d, n), a) for c, n, a in layers)
    )


class FoldedLayer(nn.Module):
    """A convolution whose output has no mean, divided by its deviation; then weight, bias and activation.

    The weight and bias of the norm are a depthwise convolution, which runtimes fuse with the activation.
    """

    def __init__(self, conv: nn.Conv2d, norm: LayerNorm2d, activation: nn.Module) -> None:
        super().__init__()
        self.conv, self.activation, self.eps = conv, activation, norm.eps
        conv.weight.sub_(conv.weight.mean(0))
        _bias(conv).sub_(_bias(conv).mean())
        channels = len(norm.weight)
        self.affine = nn.Conv2d(channels, channels, 1, groups=channels, dtype=norm.weight.dtype)
        self.affine.weight.copy_(norm.weight[:, None, None, None])
        _bias(self.affine).copy_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.activation(self.affine(y * inverse_deviation(y, self.eps)))


def _bias(conv: nn.Conv2d) -> Tensor:
    return cast(Tensor, conv.bias)
