"""What light and air do to frames (B, 3, 2, H, W), 0 .. 255, without moving anything; erased patches too."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mcjepa.config import SyntheticConfig
from mcjepa.data.draws import Draws, constant
from mcjepa.data.synthetic import shapes
from mcjepa.data.synthetic.grids import (
    coarse_grid,
    direction,
    each,
    enlarge,
    enlarge_points,
    extent,
    points,
    sample,
    smooth_field,
)

SHADOWS = 2  # of a pair that has any
PATCHES = 3  # erased ones of a pair that has any
DARKEST = 0.25
NOBODY = 255  # the owner of erased pixels
BLOCK = 8  # px
# JPEG (ITU-T T.81): the matrix to luma and two colour differences, and the tables of annex K
YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
RGB = tuple(map(tuple, np.linalg.inv(YCC).tolist()))
LUMA = (
    (16.0, 11.0, 10.0, 16.0, 24.0, 40.0, 51.0, 61.0),
    (12.0, 12.0, 14.0, 19.0, 26.0, 58.0, 60.0, 55.0),
    (14.0, 13.0, 16.0, 24.0, 40.0, 57.0, 69.0, 56.0),
    (14.0, 17.0, 22.0, 29.0, 51.0, 87.0, 80.0, 62.0),
    (18.0, 22.0, 37.0, 56.0, 68.0, 109.0, 103.0, 77.0),
    (24.0, 35.0, 55.0, 64.0, 81.0, 104.0, 113.0, 92.0),
    (49.0, 64.0, 78.0, 87.0, 103.0, 121.0, 120.0, 101.0),
    (72.0, 92.0, 95.0, 98.0, 112.0, 100.0, 103.0, 99.0),
)
CHROMA = (
    (17.0, 18.0, 24.0, 47.0, 99.0, 99.0, 99.0, 99.0),
    (18.0, 21.0, 26.0, 66.0, 99.0, 99.0, 99.0, 99.0),
    (24.0, 26.0, 56.0, 99.0, 99.0, 99.0, 99.0, 99.0),
    (47.0, 66.0, 99.0, 99.0, 99.0, 99.0, 99.0, 99.0),
    *((99.0,) * 8,) * 4,
)
COSINES = tuple(
    tuple(
        math.sqrt((2 if u else 1) / BLOCK) * math.cos((2 * i + 1) * u * math.pi / (2 * BLOCK))
        for i in range(BLOCK)
    )
    for u in range(BLOCK)
)


def cast_shadows(frames: Tensor, reach: Tensor, config: SyntheticConfig, draws: Draws) -> None:
    """Darken what random soft shapes cover, in place; they move by up to half of `reach`."""
    rows = draws.rows(len(frames), config.shadows)
    if not len(rows):
        return
    size, n = (frames.shape[3], frames.shape[4]), len(rows)
    light = torch.ones_like(frames[rows, :1])
    for own in (draws.fork(f"shadow {i}") for i in range(SHADOWS)):
        centre = own.uniform(n, 2) * extent(size, frames)
        radius = own.log_uniform(n, low=0.15, high=0.9) * min(size)
        shift = (0.5 * reach[rows] * own.uniform(n))[:, None] * direction(own.uniform(n, high=2 * math.pi))
        flow = each(shift).expand(-1, -1, *coarse_grid(size, frames).shape[2:])
        places = (points(size, flow) - each(centre)[:, :, None]) / each(shapes.REACH * radius)[:, :, None]
        width = own.log_uniform(n, low=0.01, high=0.4)  # of the edge, in radii
        outlines = shapes.random_shapes(n, own, holed=config.holed)[:, None] / each(width) + 0.5
        alpha = sample(outlines, enlarge_points(places, size), "zeros").clamp_(0, 1)
        light *= 1 - alpha * each(own.uniform(n, low=0.2, high=0.65))[:, :, None]
    frames[rows] *= light


def change_air(frames: Tensor, config: SyntheticConfig, draws: Draws) -> None:
    """Make the light uneven or dim and put haze before the scene, in place; a little other in each frame."""
    b, size = len(frames), (frames.shape[3], frames.shape[4])
    chances = (config.uneven_light, config.dark, config.haze)
    wanted = draws.host.random((b, 3)) < chances
    chosen = np.flatnonzero(wanted.any(1))
    if not len(chosen):
        return
    rows, n = draws.send(chosen), len(chosen)
    uneven, dark, haze = each(draws.send(wanted[chosen].astype(np.float32)))[:, :, None].unbind(1)
    grid = (coarse_grid(size, frames).shape[2], coarse_grid(size, frames).shape[3])
    stops = 0.8 * _in_both(n, 1, 0.25, grid, draws) * uneven[:, None]
    gain = stops.exp() * _each_row(draws.log_uniform(n, low=DARKEST, high=0.7)) ** dark[:, None]
    depth = (_in_both(n, 1, 0.15, grid, draws) + 0.6).clamp(0, 1) * _each_row(
        draws.uniform(n, low=0.2, high=0.8)
    )
    colour = _each_row(draws.uniform(n, low=60.0, high=220.0)) + 25 * _in_both(n, 3, 0.05, grid, draws)
    depth = depth * haze[:, None]
    made = frames[rows] * enlarge(gain * (1 - depth), size)
    frames[rows] = made.add_(enlarge(colour * depth, size))


def erase_patches(frames: Tensor, owner: Tensor, config: SyntheticConfig, draws: Draws) -> None:
    """Paint rectangles of frame 2 in its mean colour, in place, as RAFT is trained; they belong to no layer.

    owner: uint8 (B, 2, H, W), the number of the layer that each pixel shows.
    """
    rows = draws.rows(len(frames), config.erased)
    if not len(rows):
        return
    (h, w), n = frames.shape[3:], len(rows)
    y, x = torch.arange(h, device=frames.device), torch.arange(w, device=frames.device)
    erased = torch.zeros(n, h, w, dtype=torch.bool, device=frames.device)
    for _ in range(PATCHES):
        inside = []
        for at, side in ((y, h), (x, w)):
            middle = draws.uniform(n, 1) * side
            half = draws.uniform(n, 1, low=0.03, high=0.12) * min(h, w)
            inside.append((at - middle).abs() < half)
        erased |= inside[0][:, :, None] & inside[1][:, None]
    second = frames[rows, :, 1]
    mean = second.mean((2, 3), keepdim=True)
    frames[rows, :, 1] = torch.where(erased[:, None], mean, second)
    owner[rows, 1] = owner[rows, 1].masked_fill(erased, NOBODY)


def block_artefacts(img1: Tensor, img2: Tensor, config: SyntheticConfig, draws: Draws) -> None:
    """Round the 8x8 cosine transforms of some pairs, uint8 (B, 3, H, W), in place, as strong JPEG does."""
    rows = draws.rows(len(img1), config.blocks)
    if not len(rows):
        return
    strength = draws.log_uniform(len(rows), low=0.6, high=3.0)
    for img in (img1, img2):
        h, w = (side // BLOCK * BLOCK for side in img.shape[2:])
        img[rows, :, :h, :w] = _rounded(img[rows, :, :h, :w], strength)


def _rounded(img: Tensor, strength: Tensor) -> Tensor:
    """uint8 (B, 3, H, W), sides multiples of BLOCK; strength (B,) times the tables of JPEG's quality 50."""
    device = img.device
    to_luma = constant(YCC, device)
    steps = torch.stack([constant(LUMA, device), constant(CHROMA, device), constant(CHROMA, device)])
    steps = steps[None, :, None, :, None] * strength.reshape(-1, 1, 1, 1, 1, 1)  # (B, 3, 1, 8, 1, 8)
    basis = constant(COSINES, device)
    b, _, h, w = img.shape
    x = torch.einsum("ij,bjhw->bihw", to_luma, img.float() - 128)
    x = x.reshape(b, 3, h // BLOCK, BLOCK, w // BLOCK, BLOCK)
    x = torch.einsum("ui,bcyixj,vj->bcyuxv", basis, x, basis)
    x = (x / steps).round_().mul_(steps)
    x = torch.einsum("ui,bcyuxv,vj->bcyixj", basis, x, basis).reshape(b, 3, h, w)
    x = torch.einsum("ij,bjhw->bihw", constant(RGB, device), x) + 128
    return x.round_().clamp_(0, 255).to(torch.uint8)


def _in_both(n: int, channels: int, change: float, grid: tuple[int, int], draws: Draws) -> Tensor:
    """Smooth random fields (n, channels, 2, h, w) that differ a little between the frames."""
    same = smooth_field((n, channels), grid, draws)[:, :, None]
    return same + change * smooth_field((n, 2 * channels), grid, draws).unflatten(1, (channels, 2))


def _each_row(values: Tensor) -> Tensor:
    """(N,) -> (N, 1, 1, 1, 1)."""
    return values.reshape(-1, 1, 1, 1, 1)
