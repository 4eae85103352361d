"""What augment.py does on the CPU, for a whole batch on the device: the light of pairs, views of images."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mcjepa.data.augment import FIRST_VIEW, REFERENCE_SIZE, SECOND_VIEW, ViewRecipe
from mcjepa.data.device_draws import Draws, constant

GREY = (0.299, 0.587, 0.114)
# ITU-R BT.601: RGB to luma and two colour differences, in whose plane hue is an angle (YIQ)
YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
RGB = tuple(map(tuple, np.linalg.inv(YIQ).tolist()))  # and back


def relight_pairs(img1: Tensor, img2: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Change the light of frame pairs without moving anything: float (B, 3, H, W), 0 .. 255 -> uint8.

    Gamma, contrast, brightness, colour and saturation change strongly for both frames alike and weakly for
    each alone; noise and blur come for each alone.
    """
    b = len(img1)
    common = _log_light(b, 1.0, draws)
    lights = torch.cat([common + _log_light(b, 0.3, draws) for _ in range(2)]).exp()  # (2B, 6)
    gamma, contrast, saturation = (lights[:, i].reshape(-1, 1, 1, 1) for i in range(3))
    x = (torch.cat([img1, img2]) / 255).clamp(1e-4, 1) ** gamma
    x = (((x - 0.5) * contrast + 0.5) * lights[:, 3:].reshape(-1, 3, 1, 1)).clamp(0, 1)
    x = _grey(x).lerp(x, saturation).clamp(0, 1)
    blurred = draws.distinct(-(-2 * b // 5), 2 * b)  # a fifth; blurring is slow
    x[blurred] = _blur(x[blurred], draws.uniform(len(blurred), low=0.3, high=1.2), 1.2)
    sigma = draws.uniform(2 * b, low=0.5, high=5.0) * draws.chance(2 * b, p=0.5) / 255
    first, second = _to_uint8(x + draws.normal(*x.shape) * sigma.reshape(-1, 1, 1, 1)).chunk(2)
    return first, second


def two_views(images: Tensor, size: int, min_area: float, draws: Draws) -> tuple[Tensor, Tensor]:
    """Two random views of images, each of min_area to 1 of it: uint8 (B, 3, s, s) -> (B, 3, size, size)."""
    first, second = (_view(images, size, min_area, recipe, draws) for recipe in (FIRST_VIEW, SECOND_VIEW))
    return first, second


def _view(images: Tensor, size: int, min_area: float, recipe: ViewRecipe, draws: Draws) -> Tensor:
    b = len(images)
    x = _random_resized_crop(images.float() / 255, size, min_area, draws)
    x = torch.where(_mask(draws.chance(b, p=0.8)), _colour_jitter(x, draws), x)
    x = torch.where(_mask(draws.chance(b, p=0.2)), _grey(x), x)
    most = 2.0 * size / REFERENCE_SIZE
    x = _blur(x, draws.uniform(b, low=0.05 * most, high=most) * draws.chance(b, p=recipe.blur), most)
    x = torch.where(_mask(draws.chance(b, p=recipe.solarize)) & (x >= 0.5), 1 - x, x)
    return _to_uint8(x)


def _random_resized_crop(x: Tensor, size: int, min_area: float, draws: Draws) -> Tensor:
    """Crops of min_area to 1 of the area and aspect 3/4 to 4/3, half of them mirrored: (B, 3, size, size)."""
    b = len(x)
    area, aspect = draws.uniform(b, low=min_area), draws.log_uniform(b, low=3 / 4, high=4 / 3)
    extent = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 1).clamp(max=1)  # of the whole, 1
    middle = draws.uniform(b, 2, low=-1.0, high=1.0) * (1 - extent)
    scale = torch.stack([extent[:, 0] * draws.sign(b), extent[:, 1]], 1)
    affine = torch.cat([torch.diag_embed(scale), middle[..., None]], 2)
    at = F.affine_grid(affine, [b, 3, size, size], align_corners=False)
    return F.grid_sample(x, at, mode="bicubic", padding_mode="reflection", align_corners=False).clamp(0, 1)


def _colour_jitter(x: Tensor, draws: Draws) -> Tensor:
    """Brightness 0.4, contrast 0.4, saturation 0.2 and hue 0.1, of images 0 .. 1."""
    b = len(x)
    x = (x * draws.uniform(b, 1, 1, 1, low=0.6, high=1.4)).clamp(0, 1)
    x = _grey(x).mean((2, 3), keepdim=True).lerp(x, draws.uniform(b, 1, 1, 1, low=0.6, high=1.4)).clamp(0, 1)
    x = _grey(x).lerp(x, draws.uniform(b, 1, 1, 1, low=0.8, high=1.2)).clamp(0, 1)
    return _turn_hue(x, draws.uniform(b, low=-0.1, high=0.1) * 2 * math.pi)


def _turn_hue(x: Tensor, angle: Tensor) -> Tensor:
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = [torch.stack(r, 1) for r in ((one, zero, zero), (zero, c, -s), (zero, s, c))]
    matrix = constant(RGB, x.device) @ torch.stack(rows, 1) @ constant(YIQ, x.device)  # (B, 3, 3)
    return torch.einsum("bij,bjhw->bihw", matrix, x).clamp(0, 1)


def _log_light(number: int, strength: float, draws: Draws) -> Tensor:
    """Logarithms of gamma, contrast, saturation and the gains of R, G and B: (B, 6)."""
    first = draws.uniform(number, 4, low=-0.3, high=0.3)
    gains = first[:, 3:] + draws.uniform(number, 3, low=-0.1, high=0.1)
    return strength * torch.cat([first[:, :3], gains], 1)


def _grey(x: Tensor) -> Tensor:
    """(B, 3, H, W) -> the same shape, all channels alike."""
    return (x * constant(GREY, x.device).reshape(1, 3, 1, 1)).sum(1, keepdim=True).expand_as(x)


def _blur(x: Tensor, sigma: Tensor, most: float) -> Tensor:
    """Gaussian blur of (B, C, H, W) by sigma (B,) px, at most `most`; 0 leaves an image as it is."""
    radius = math.ceil(2.5 * most)
    taps = torch.arange(-radius, radius + 1, device=x.device)
    weights = torch.exp(-0.5 * (taps / sigma.clamp(min=1e-3)[:, None]).square())
    weights = weights / weights.sum(1, keepdim=True)  # (B, taps)
    for dim in (2, 3):
        pad = [radius, radius, 0, 0] if dim == 3 else [0, 0, radius, radius]
        padded, n = F.pad(x, pad, mode="reflect"), x.shape[dim]
        x = torch.stack([_mask(w) * padded.narrow(dim, i, n) for i, w in enumerate(weights.T)]).sum(0)
    return x


def _mask(values: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1)."""
    return values.reshape(-1, 1, 1, 1)


def _to_uint8(x: Tensor) -> Tensor:
    return (x * 255).round().clamp(0, 255).to(torch.uint8)
