"""Photos in motion, with and without a shape, drawn into two frames.

Frame 2 is drawn from photos directly; frame 1 samples every layer where its flow points, so any flow is exact
without inverting it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mcjepa.config import SyntheticConfig
from mcjepa.data.draws import Draws, constant
from mcjepa.data.light import blur
from mcjepa.data.synthetic.grids import Window, covered, each, enlarge_points, points, sample

TAPS = 6  # moments at which the open shutter sees
LONGEST = 24.0  # px of motion blur
MOST_DEFOCUS = 1.8  # sigma of the blur of a photo of half size, photo px


class View(NamedTuple):
    """What is drawn: of frames of `size` (H, W), these of the two, and of them a window or all."""

    size: tuple[int, int]
    frames: slice = slice(0, 2)
    window: Window | None = None

    def points(self, at: Tensor) -> Tensor:
        return enlarge_points(at, self.size, self.window)


@dataclass(frozen=True)
class Layers:
    """N photos in motion.

    photos: uint8 (N, 3, ph, pw); flow: (N, 2, h, w) px; looks: (N, 2, 2, h, w), where in the photo, -1 .. 1,
    the pixels of frames 1 and 2 look; shutter: (N,), the share of the time that it is open.
    """

    photos: Tensor
    flow: Tensor
    looks: Tensor
    shutter: Tensor

    def draw(self, rows: slice, blurred: Tensor, view: View) -> Tensor:
        """Some of them, float (n, 3, frames, H, W), 0 .. 255.

        blurred: which of these are drawn with an open shutter, int64.
        """
        return _drawn(self.photos[rows], self.looks[rows], self.shutter[rows], blurred, view, "reflection")


@dataclass(frozen=True)
class CutOuts:
    """Layers with a shape.

    shapes: (N, 1, s, s), above 1 within and below 0 without; places: (N, 2, 2, h, w), where in the shape,
    -1 .. 1, the pixels of frames 1 and 2 lie.
    """

    layers: Layers
    shapes: Tensor
    places: Tensor

    def window(self, rows: slice, blurred: Tensor, size: tuple[int, int], frames: slice) -> Window | None:
        """Where some of them are seen in any of these frames."""
        places = self.places[rows]
        seen = places[:, :, frames]
        if len(blurred):
            half = _velocity(places) * _each_layer(self.layers.shutter[rows]) / 2
            seen = torch.cat([seen, seen + half, seen - half], 2)
        return covered(seen, size)

    def cut(self, rows: slice, blurred: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """How much they cover, 0 .. 1, and whether they would with a fast shutter: (n, 1, frames, H, W)."""
        shapes, places, shutter = self.shapes[rows], self.places[rows], self.layers.shutter[rows]
        alpha = _drawn(shapes, places, shutter, blurred[:0], view, "zeros")
        hard = alpha > 0.5
        if len(blurred):
            alpha[blurred] = _exposed(shapes[blurred], places[blurred], shutter[blurred], view, "zeros")
        return alpha, hard


def _drawn(images: Tensor, at: Tensor, shutter: Tensor, blurred: Tensor, view: View, outside: str) -> Tensor:
    if len(blurred) == len(images):
        return _exposed(images, at, shutter, view, outside)
    made = _seen(images.float(), view.points(at[:, :, view.frames]), outside)
    if len(blurred):
        made[blurred] = _exposed(images[blurred], at[blurred], shutter[blurred], view, outside)
    return made


def _exposed(images: Tensor, at: Tensor, shutter: Tensor, view: View, outside: str) -> Tensor:
    """The mean of what is seen while the shutter is open, as long before a frame's instant as after it."""
    images = images.float()
    middle, step = view.points(at[:, :, view.frames]), view.points(_velocity(at) * _each_layer(shutter))
    moments = [(i + 0.5) / TAPS - 0.5 for i in range(TAPS)]
    made = _seen(images, torch.add(middle, step, alpha=moments[0]), outside)
    for moment in moments[1:]:
        made += _seen(images, torch.add(middle, step, alpha=moment), outside)
    return made.div_(TAPS)


def _seen(images: Tensor, at: Tensor, outside: str) -> Tensor:
    made = sample(images, at, outside)
    return made.clamp_(0, 1) if outside == "zeros" else made


def _velocity(at: Tensor) -> Tensor:
    """What passes a pixel between the frames, in the units of `at` (N, 2, 2, h, w): (N, 2, 1, h, w)."""
    return at[:, :, :1] - at[:, :, 1:]


def _each_layer(values: Tensor) -> Tensor:
    """(N,) -> (N, 1, 1, 1, 1)."""
    return values.reshape(-1, 1, 1, 1, 1)


def make_layers(
    photos: Tensor,
    size: tuple[int, int],
    centre: Tensor,
    half: Tensor,
    flow: Tensor,
    shutter: Tensor,
    stretch: Tensor,
    config: SyntheticConfig,
    draws: Draws,
) -> tuple[Layers, Tensor]:
    """Random parts of random photos, turned a little, about `centre` (N, 2) px; and how blurred each is.

    half: (N, 2) px to each side that should show different parts of the photo, which is mirrored at its
    edges; stretch: (N, 2) of the whole pair; the blur: (N,) px, a standard deviation.
    """
    n = len(centre)
    photo = constant((float(photos.shape[3]), float(photos.shape[2])), photos.device)
    sharp = draws.chance(n, p=config.sharp)  # the scale is photo px a frame px
    scale = torch.where(
        sharp, draws.log_uniform(n, low=0.8, high=1.25), draws.log_uniform(n, low=0.4, high=0.8)
    )
    angle, flip = 0.15 * draws.normal(n), draws.sign(n)
    c, s = scale * angle.cos(), scale * angle.sin()
    linear = torch.stack([torch.stack([c * flip, -s], 1), torch.stack([s * flip, c], 1)], 1)  # (N, 2, 2)
    linear = linear * (stretch.prod(1, keepdim=True).sqrt() / stretch)[:, None]
    slack = (photo / 2 - scale[:, None] * half).clamp(min=0)
    anchor = photo / 2 + draws.uniform(n, 2, low=-1.0, high=1.0) * slack
    looks = torch.einsum("bij,bjfhw->bifhw", linear, points(size, flow) - each(centre)[:, :, None])
    looks = (looks + each(anchor)[:, :, None]) * each(2 / (photo - 1)[None])[:, :, None] - 1
    surfaces, sigma = _surfaces(photos[draws.integers(n, low=0, high=len(photos))], config, draws)
    return Layers(surfaces, flow, looks, shutter), sigma / scale


def _surfaces(photos: Tensor, config: SyntheticConfig, draws: Draws) -> tuple[Tensor, Tensor]:
    """Photos uint8 (N, 3, h, w), some of them changed; and how blurred they are, (N,) photo px."""
    n, size = len(photos), (photos.shape[2], photos.shape[3])
    rows, own = draws.fork("repeated").rows(n, config.repeated), draws.fork("repeated pieces")
    if len(rows):
        photos[rows] = _repeated(photos[rows], own)
    rows = draws.fork("plain").rows(n, config.plain)
    if len(rows):
        few = F.adaptive_avg_pool2d(photos[rows, :, ::8, ::8].float(), (2, 3))
        photos[rows] = F.interpolate(few, size, mode="bilinear", align_corners=True).to(torch.uint8)
    rows, own = draws.fork("defocus").rows(n, config.defocus), draws.fork("defocus sigma")
    sigma = torch.zeros(n, device=photos.device)
    if len(rows):
        small = own.uniform(len(rows), low=0.4, high=MOST_DEFOCUS)
        sigma[rows] = 2 * small
        half = (-(-size[0] // 2), -(-size[1] // 2))
        halved = F.interpolate(photos[rows].float(), half, mode="bilinear", align_corners=False)
        soft = blur(halved, small, MOST_DEFOCUS)
        photos[rows] = F.interpolate(soft, size, mode="bilinear", align_corners=True).to(torch.uint8)
    return photos, sigma


def _repeated(photos: Tensor, draws: Draws) -> Tensor:
    """A piece of each, again and again, every second time mirrored in half of them."""
    n, device = len(photos), photos.device
    mirrored = draws.chance(n, 1, p=0.5)

    def inside(length: int) -> Tensor:
        period = draws.integers(n, 1, low=min(12, length), high=min(64, length) + 1)
        start = (draws.uniform(n, 1) * (length - period + 1)).long()
        i = torch.arange(length, device=device)
        back = torch.minimum(i % (2 * period), 2 * period - 1 - i % (2 * period))
        return start + torch.where(mirrored, back, i % period)  # (N, length)

    y, x = inside(photos.shape[2]), inside(photos.shape[3])
    at = torch.arange(n, device=device)[:, None, None]
    return photos[at, :, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)
