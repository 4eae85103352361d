"""The same function in fewer operations: what a model becomes for its export.

A runtime without a kernel for LayerNorm over the channels of (B, C, H, W) makes seven passes of it, which
cost far more than their arithmetic. What is linear in it moves into the convolutions beside it:

- of a convolution whose output is normalised, the mean over the output channels is taken off its weights;
- of one whose input was normalised, the mean over the input channels, and the norm's weight and bias go in;
- the scale of a residual, and the standard deviation of images, go into the convolution before and after it.

What is left is a division by the deviation (`Scaled`). So the pyramids of a folded model are not those of the
model: `MCJEPA.read` makes up for what is missing.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcjepa.model.encoder import ConvNeXtBlock, Encoder, LayerNorm2d
from mcjepa.model.flow import COARSEST, FINEST, Estimator
from mcjepa.model.joint import MCJEPA, Normalisation
from mcjepa.model.recurrent import LEVEL


@torch.no_grad()
def folded(model: MCJEPA) -> MCJEPA:
    """A copy for inference whose flow and embeddings are those of `model`, but for rounding."""
    model = copy.deepcopy(model).eval()
    stem = cast(nn.Conv2d, model.encoder.down[0])
    stem.weight.div_(model.normalise.std)
    model.read = Completed(model.encoder)
    _fold_levels(model)
    _fold_children(model)
    return model


def _fold_levels(model: MCJEPA) -> None:
    """The norm at the end of a level goes into what reads it: the next level and the flow head."""
    encoder = model.encoder
    for level, norm in enumerate(encoder.norms):
        if not isinstance(norm, LayerNorm2d):
            continue
        if level + 1 < len(encoder.down):
            _absorb(cast(nn.Conv2d, encoder.down[level + 1]), norm)
        for conv in _readers(model, level):
            _absorb(conv, norm)
        encoder.norms[level] = Scaled(norm)


def _readers(model: MCJEPA, level: int) -> list[nn.Conv2d]:
    """The projections of the flow heads that read a level of the pyramid."""
    readers = []
    if FINEST <= level <= COARSEST:
        readers.append(cast(nn.Conv2d, model.flow_head.matchers[level - FINEST].project))
    if (head := model.recurrent_head) is not None:
        projections = {FINEST: head.matcher.project, LEVEL: head.recurrent.project_16}
        projections[LEVEL + 1] = head.recurrent.project_32
        readers += [projections[level]] if level in projections else []
    return readers


def _fold_children(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, Normalisation):
            setattr(module, name, Centring(child))
        elif isinstance(child, ConvNeXtBlock):
            setattr(module, name, FoldedBlock(child))
        elif isinstance(child, Estimator):
            _fold_estimator(child)
        else:
            _fold_children(child)


def _absorb(conv: nn.Conv2d, norm: LayerNorm2d) -> None:
    """conv(LN(x)) = conv'(x / deviation), for a convolution without padding."""
    _bias(conv).add_((conv.weight * norm.bias[:, None, None]).sum((1, 2, 3)))
    weight = conv.weight * norm.weight[:, None, None]
    conv.weight.copy_(weight - weight.mean(1, keepdim=True))


class Centring(nn.Module):
    """Images less their mean; the deviation is in the first convolution."""

    mean: Tensor

    def __init__(self, whole: Normalisation) -> None:
        super().__init__()
        self.register_buffer("mean", whole.mean)

    def forward(self, images: Tensor) -> Tensor:
        return images.float() - self.mean


class Scaled(nn.Module):
    """(B, C, H, W) over sqrt(variance over the channels + eps). Where `centred`, the mean is known to be 0.

    Sums over the channels, and the way back to them, are 1x1 convolutions: runtimes keep maps in blocks of
    channels for convolutions, and any other sum would have them laid out anew, there and back.
    """

    share: Tensor  # (1, C, 1, 1)
    ones: Tensor  # (C, 1, 1, 1)

    def __init__(self, norm: LayerNorm2d, centred: bool = False) -> None:
        super().__init__()
        self.eps, self.centred = norm.eps, centred
        channels = len(norm.weight)
        self.register_buffer("share", norm.weight.new_full((1, channels, 1, 1), 1.0 / channels))
        self.register_buffer("ones", norm.weight.new_ones(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance = F.conv2d(x * x, self.share)
        if not self.centred:
            mean = F.conv2d(x, self.share)
            variance = (variance - mean.square()).clamp_min(0.0)
        return x * F.conv2d(torch.rsqrt(variance + self.eps), self.ones)


class Completed(nn.Module):
    """Folded pyramids -> those of the model, with mean, weight and bias of the norms that end the levels."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            CompletedLevel(norm) if isinstance(norm, LayerNorm2d) else nn.Identity() for norm in encoder.norms
        )

    def forward(self, feats: list[Tensor]) -> list[Tensor]:
        return [level(f) for f, level in zip(feats, self.levels, strict=True)]


class CompletedLevel(nn.Module):
    """x / deviation -> LN(x), of (B, C, H, W).

    The mean is a convolution, as in `Scaled`: any other ONNX Runtime would round by its number of threads.
    """

    share: Tensor  # (1, C, 1, 1)
    weight: Tensor  # (C, 1, 1)
    bias: Tensor  # (C, 1, 1)

    def __init__(self, norm: LayerNorm2d) -> None:
        super().__init__()
        channels = len(norm.weight)
        self.register_buffer("share", norm.weight.new_full((1, channels, 1, 1), 1.0 / channels))
        self.register_buffer("weight", norm.weight[:, None, None].clone())
        self.register_buffer("bias", norm.bias[:, None, None].clone())

    def forward(self, x: Tensor) -> Tensor:
        return (x - F.conv2d(x, self.share)) * self.weight + self.bias


class FoldedBlock(nn.Module):
    """ConvNeXtBlock: E(LN(y)) = E' (y / deviation) + b', and the layer scale within the last convolution."""

    def __init__(self, block: ConvNeXtBlock) -> None:
        super().__init__()
        self.depthwise, self.expand, self.reduce = block.depthwise, block.expand, block.reduce
        self.scaled = Scaled(block.norm)
        _absorb(self.expand, block.norm)
        self.reduce.weight.mul_(block.scale[..., None])
        _bias(self.reduce).mul_(block.scale.flatten())

    def forward(self, x: Tensor) -> Tensor:
        y = self.scaled(self.depthwise(x))
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
        self.conv, self.activation = conv, activation
        conv.weight.sub_(conv.weight.mean(0))
        _bias(conv).sub_(_bias(conv).mean())
        channels = len(norm.weight)
        self.scaled = Scaled(norm, centred=True)
        self.affine = nn.Conv2d(channels, channels, 1, groups=channels, dtype=norm.weight.dtype)
        self.affine.weight.copy_(norm.weight[:, None, None, None])
        _bias(self.affine).copy_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.affine(self.scaled(self.conv(x))))


def _bias(conv: nn.Conv2d) -> Tensor:
    return cast(Tensor, conv.bias)
