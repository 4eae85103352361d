"""Known-motion pairs: photos composed into moving layers, whose flow is known exactly, without labels.

Its parts are in `synthetic/`: motions, outlines, layers, and what light and air do. Each part draws from a
random stream of its own, so that a switch of `SyntheticConfig` changes nothing but what it names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mcjepa.config import SyntheticConfig
from mcjepa.data.draws import Draws
from mcjepa.data.images import cut_to
from mcjepa.data.light import relight_pairs
from mcjepa.data.synthetic import effects
from mcjepa.data.synthetic.cut_outs import Scene, make_cut_outs, rows_of
from mcjepa.data.synthetic.grids import enlarge, extent
from mcjepa.data.synthetic.layers import CutOuts, View, make_layers
from mcjepa.data.synthetic.motion import camera_motion, random_reach, widened

PHOTO = (320, 480)  # (H, W) px that photos are cut to
PHOTOS = 6  # that a pair by itself is composed of
MOST_LAYERS = 10  # cut-outs of a pair


def as_photo(img: np.ndarray) -> np.ndarray:
    """The middle of an image (H, W, 3), those in portrait format turned: (*PHOTO, 3)."""
    return cut_to(np.rot90(img) if img.shape[0] > img.shape[1] else img, PHOTO)


@dataclass(frozen=True)
class Pairs:
    """img1, img2: uint8 (B, 3, H, W) RGB; flow: float32 (B, 2, H, W) px, of occluded pixels too.

    visible: bool (B, 1, H, W), whether frame 2 shows what a pixel of frame 1 shows.
    """

    img1: Tensor
    img2: Tensor
    flow: Tensor
    visible: Tensor


@dataclass(frozen=True)
class _Canvas:
    """frames: float (B, 3, 2, H, W); flow: (B, 2, H, W) px; owner: uint8 (B, 2, H, W), a pixel's layer."""

    frames: Tensor
    flow: Tensor
    owner: Tensor


def compose_pairs(
    photos: Tensor,
    number: int,
    size: tuple[int, int],
    max_motion: float,
    draws: Draws,
    config: SyntheticConfig | None = None,
) -> Pairs:
    """`number` pairs of `size` (H, W) from photos uint8 (P, 3, h, w); motions reach about `max_motion` px.

    Later pairs have more cut-outs before their background, 0 to MOST_LAYERS.
    """
    config = config or SyntheticConfig()
    blurred = draws.fork("blurred").chosen(number, config.motion_blur)
    scene = _random_scene(number, size, max_motion, config, draws.fork("scene"))
    canvas = _background(photos, scene, draws.send(blurred), config, draws.fork("background"))
    firsts = _first_pairs(number, draws)
    if firsts[0] < number:
        cut_outs = make_cut_outs(photos, firsts, scene, config, draws.fork("cut-outs"))
        _paste(cut_outs, firsts, blurred, canvas, draws)
    effects.cast_shadows(canvas.frames, scene.reach, config, draws.fork("shadows"))
    effects.change_air(canvas.frames, config, draws.fork("air"))
    effects.erase_patches(canvas.frames, canvas.owner, config, draws.fork("erased"))
    img1, img2 = canvas.frames.unbind(2)
    img1, img2 = relight_pairs(img1, img2, draws, config.relight, config.soft_frame, config.noise)
    effects.block_artefacts(img1, img2, config, draws.fork("blocks"))
    return Pairs(img1, img2, canvas.flow, _visible(canvas.flow, canvas.owner))


def _random_scene(
    number: int, size: tuple[int, int], max_motion: float, config: SyntheticConfig, draws: Draws
) -> Scene:
    reach, most = random_reach(number, max_motion, config, draws)
    camera = camera_motion(size, reach, config, draws)
    both = draws.uniform(number, 1, low=-0.25, high=0.45)
    apart = draws.uniform(number, 1, low=-0.25, high=0.25)
    change = torch.cat([both + apart, both - apart], 1) * draws.chance(number, 1, p=config.stretch)
    return Scene(size, camera, reach, most, change.exp(), draws.uniform(number, low=0.2, high=0.6))


def _first_pairs(number: int, draws: Draws) -> list[int]:
    """The first pair that has cut-out i; one of MOST_LAYERS + 1 pairs has none, one has one, and so on."""
    share, offset = number / (MOST_LAYERS + 1), draws.host.random()
    return [min(max(math.ceil((i + 1) * share - offset), 0), number) for i in range(MOST_LAYERS)]


def _background(
    photos: Tensor, scene: Scene, blurred: Tensor, config: SyntheticConfig, draws: Draws
) -> _Canvas:
    number, size = len(scene.reach), scene.size
    half = (extent(size, scene.camera) / 2).expand(number, 2)
    flow, middle = widened(scene.camera, half, scene.stretch, size)
    speed = torch.linalg.vector_norm(flow, dim=1).mean((1, 2))
    shutter = scene.shutter_of(torch.arange(number, device=flow.device), speed)
    layers, _ = make_layers(photos, size, middle, half, flow, shutter, scene.stretch, config, draws)
    owner = torch.zeros(number, 2, *size, dtype=torch.uint8, device=flow.device)
    return _Canvas(layers.draw(slice(None), blurred, View(size)), enlarge(flow, size), owner)


def _paste(cut_outs: CutOuts, firsts: list[int], blurred: np.ndarray, canvas: _Canvas, draws: Draws) -> None:
    """Draw over the canvas, in place, cut-out by cut-out; `blurred` names the pairs with motion blur."""
    number, size = len(canvas.frames), (canvas.frames.shape[3], canvas.frames.shape[4])
    for i, (first, rows) in enumerate(rows_of(firsts, number), start=1):
        soft = draws.send(blurred[blurred >= first] - first)
        for frame in range(2):  # by itself: a fast one is far from where it was
            frames = slice(frame, frame + 1)
            window = cut_outs.window(rows, soft, size, frames)
            if window is None:
                continue
            ys, xs = window.pixels(size)
            view = View(size, frames, window)
            alpha, hard = cut_outs.cut(rows, soft, view)
            canvas.frames[first:, :, frames, ys, xs].lerp_(cut_outs.layers.draw(rows, soft, view), alpha)
            canvas.owner[first:, frame, ys, xs].masked_fill_(hard[:, 0, 0], i)
            if frame == 0:
                flow = canvas.flow[first:, :, ys, xs]
                moved = enlarge(cut_outs.layers.flow[rows], size, window)
                flow.copy_(torch.where(hard[:, :, 0], moved, flow))


def _visible(flow: Tensor, owner: Tensor) -> Tensor:
    """Whether frame 2 shows the same layer where the flow (B, 2, H, W) points: (B, 1, H, W)."""
    h, w = flow.shape[2:]
    y, x = torch.arange(h, device=flow.device)[:, None], torch.arange(w, device=flow.device)
    to_x, to_y = (x + flow[:, 0]).round_().long(), (y + flow[:, 1]).round_().long()
    inside = (to_x >= 0) & (to_x < w) & (to_y >= 0) & (to_y < h)
    at = to_y.clamp_(0, h - 1) * w + to_x.clamp_(0, w - 1)
    there = owner[:, 1].flatten(1).gather(1, at.flatten(1)).reshape(at.shape)
    return (inside & (there == owner[:, 0]))[:, None]
