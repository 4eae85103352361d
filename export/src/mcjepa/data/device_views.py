"""VICReg's two views on the device: what augment.py makes of an image, for a batch of images of one size."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mcjepa.data.augment import FIRST_VIEW, REFERENCE_SIZE, SECOND_VIEW, ViewRecipe
from mcjepa.data.draws import Draws, constant
from mcjepa.data.light import blur, each_image, grey, to_uint8

# ITU-R BT.601: RGB to luma and two colour differences, in whose plane hue is an angle (YIQ)
YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
RGB = tuple(map(tuple, np.linalg.inv(YIQ).tolist()))  # and back


def two_views(images: Tensor, size: int, min_area: float, draws: Draws) -> tuple[Tensor, Tensor]:
    """Two random views of images, each of min_area to 1 of it: uint8 (B, 3, s, s) -> (B, 3, size, size)."""
    first, second = (_view(images, size, min_area, recipe, draws) for recipe in (FIRST_VIEW, SECOND_VIEW))
    return first, second


def _view(images: Tensor, size: int, min_area: float, recipe: ViewRecipe, draws: Draws) -> Tensor:
    b = len(images)
    x = _random_resized_crop(images.float() / 255, size, min_area, draws)
    x = torch.where(each_image(draws.chance(b, p=0.8)), _colour_jitter(x, draws), x)
    x = torch.where(each_image(draws.chance(b, p=0.2)), grey(x), x)
    most = 2.0 * size / REFERENCE_SIZE
    x = blur(x, draws.uniform(b, low=0.05 * most, high=most) * draws.chance(b, p=recipe.blur), most)
    x = torch.where(each_image(draws.chance(b, p=recipe.solarize)) & (x >= 0.5), 1 - x, x)
    return to_uint8(x)


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
    x = grey(x).mean((2, 3), keepdim=True).lerp(x, draws.uniform(b, 1, 1, 1, low=0.6, high=1.4)).clamp(0, 1)
    x = grey(x).lerp(x, draws.uniform(b, 1, 1, 1, low=0.8, high=1.2)).clamp(0, 1)
    return _turn_hue(x, draws.uniform(b, low=-0.1, high=0.1) * 2 * math.pi)


def _turn_hue(x: Tensor, angle: Tensor) -> Tensor:
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = [torch.stack(r, 1) for r in ((one, zero, zero), (zero, c, -s), (zero, s, c))]
    matrix = constant(RGB, x.device) @ torch.stack(rows, 1) @ constant(YIQ, x.device)  # (B, 3, 3)
    return torch.einsum("bij,bjhw->bihw", matrix, x).clamp(0, 1)
