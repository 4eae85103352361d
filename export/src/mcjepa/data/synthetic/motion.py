"""Flow fields (N, 2, h, w) px on the coarse grid: of cameras, of objects, of the limbs of objects."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mcjepa.config import SyntheticConfig
from mcjepa.data.draws import Draws, constant
from mcjepa.data.synthetic.grids import (
    coarse_grid,
    direction,
    each,
    extent,
    field_at,
    plane,
    turned,
)

STREETS = 0.35  # share of the cameras that drive along a street
NEAREST = 0.9  # what a street's flow is divided by stays above 1 - NEAREST


def random_reach(
    number: int, max_motion: float, config: SyntheticConfig, draws: Draws
) -> tuple[Tensor, Tensor]:
    """How far things move in each pair, (N,) px, and the most that anything may: (N,) px.

    The first is max_motion * u^1.5 with u uniform, so that still scenes are as common as fast ones; in some
    pairs both are 0.3 to 3 px.
    """
    reach = max_motion * draws.uniform(number) ** 1.5
    tiny = draws.log_uniform(number, low=0.3, high=3.0).clamp(max=max_motion)
    chosen = draws.chance(number, p=config.tiny_motion)
    return torch.where(chosen, tiny, reach), torch.where(chosen, tiny, max_motion)


def camera_motion(size: tuple[int, int], reach: Tensor, config: SyntheticConfig, draws: Draws) -> Tensor:
    """What the camera makes of a background: drives, turns and zooms, any smooth motion, or none."""
    n, middle = len(reach), extent(size, reach).expand(len(reach), 2) / 2
    smooth = random_motion(size, middle, torch.full_like(reach, math.hypot(*size) / 2), reach, draws)
    made = torch.where(each(draws.chance(n, p=STREETS)), street_motion(size, reach, draws), smooth)
    made = torch.where(each(draws.chance(n, p=config.turning)), turning_motion(size, reach, draws), made)
    return made * ~each(draws.chance(n, p=config.still_camera))


def turning_motion(size: tuple[int, int], reach: Tensor, draws: Draws) -> Tensor:
    """Roll and zoom of the whole frame about a point near its middle, the corners by up to `reach` px."""
    n = len(reach)
    centre = draws.uniform(n, 2, low=0.3, high=0.7) * extent(size, reach)
    corner = (reach / (math.hypot(*size) / 2))[:, None] * draws.uniform(n, 2, low=-1.0, high=1.0)
    angle, zoom = corner[:, 0].clamp(-0.5, 0.5), corner[:, 1].clamp(-0.35, 0.5)
    outward = coarse_grid(size, reach) - each(centre)
    return turned(outward, (1 + zoom) * angle.cos() - 1, (1 + zoom) * angle.sin())


def object_motion(
    size: tuple[int, int],
    centre: Tensor,
    radius: Tensor,
    reach: Tensor,
    most: Tensor,
    camera: Tensor,
    config: SyntheticConfig,
    draws: Draws,
) -> Tensor:
    """Of objects (N,) before backgrounds that move as `camera` (N, 2, h, w); half of them move along.

    Some are fast by themselves, whatever the reach of their pair: they shift by most * u^1.5.
    """
    n = len(reach)
    flow = random_motion(size, centre, radius, reach, draws)
    shift = (most * draws.uniform(n) ** 1.5)[:, None] * direction(draws.uniform(n, high=2 * math.pi))
    fast = each(draws.chance(n, p=config.fast))
    along = each(draws.chance(n, p=0.5))
    return torch.where(along, 0.3 * flow + camera, flow) + each(shift) * fast


def random_motion(
    size: tuple[int, int], centre: Tensor, radius: Tensor, reach: Tensor, draws: Draws
) -> Tensor:
    """Smooth flow fields (N, 2, h, w) px: translation, rotation, zoom, often tilt and deformation.

    Magnitudes are reach * u^2 with u uniform, so that small motions dominate. `radius` (N,) px is the size of
    what moves about `centre` (N, 2), (x, y): rotation and zoom are scaled to move its rim by a like amount.
    """
    n, grid = len(reach), coarse_grid(size, reach)
    outward = grid - each(centre)  # (N, 2, h, w)
    share = constant((0.2, 0.6, 1.0), reach.device)[draws.integers(n, low=0, high=3)]
    rim = (reach * share / radius)[:, None] * draws.uniform(n, 3) ** 2 * draws.sign(n, 3)
    angle, zoom, tilt = rim[:, 0].clamp(-0.5, 0.5), rim[:, 1].clamp(-0.35, 0.5), rim[:, 2].clamp(-0.4, 0.4)
    shift = (reach * draws.uniform(n) ** 2)[:, None] * direction(draws.uniform(n, high=2 * math.pi))
    flow = turned(outward, (1 + zoom) * angle.cos() - 1, (1 + zoom) * angle.sin()) + each(shift)
    # perspective: displacement that grows along one direction
    towards = direction(draws.uniform(n, high=2 * math.pi)) / radius[:, None]
    along = (outward * each(towards)).sum(1, keepdim=True).clamp(0, 1.5)  # more would fold the field
    flow = flow + outward * along * each(tilt * draws.chance(n, p=0.3))
    amplitude = 0.25 * reach * draws.uniform(n) ** 2 * draws.chance(n, p=0.5)
    return flow + each(amplitude) * _deformation(n, grid, draws)


def street_motion(size: tuple[int, int], reach: Tensor, draws: Draws) -> Tensor:
    """Flow fields (N, 2, h, w) px of a camera that drives between two walls over flat ground.

    A pixel is as far as the nearest of ground, walls and a far plane; the camera moves forward, sometimes
    backward, a little to the side, and turns: the motion field of Longuet-Higgins and Prazdny (1980).
    """
    (h, w), n = size, len(reach)
    horizon = draws.uniform(n, low=0.25, high=0.6) * h
    ahead = torch.stack([draws.uniform(n, low=0.2, high=0.8) * w, horizon], 1)  # where the camera drives to
    outward = coarse_grid(size, reach) - each(ahead)
    x, y = outward.unbind(1)
    ground = y / plane(h - horizon)
    right, left = (
        x / plane(to_border * draws.log_uniform(n, low=1.0, high=8.0))
        for to_border in (w - ahead[:, 0], -ahead[:, 0])
    )
    near = torch.stack([ground, right, left]).amax(0).clamp(max=1.5)  # 1 / depth, 1 at the lower border
    near = torch.maximum(near, plane(draws.uniform(n, low=0.0, high=0.1)))[:, None]
    lowest = reach * draws.uniform(n) / (h - horizon)  # motion at the lower border, in its distance
    forward = torch.where(draws.chance(n, p=0.85), lowest / (1 + lowest), -lowest)
    nearer = (each(forward) * near).clamp(-NEAREST, NEAREST)
    flow = outward * (nearer / (1 - nearer))
    aside = 0.4 * reach[:, None] * draws.uniform(n, 2) ** 2 * draws.sign(n, 2)
    turn = reach[:, None] * constant((0.6, 0.15), reach.device) * draws.uniform(n, 2) ** 3 * draws.sign(n, 2)
    roll = 0.05 * (reach / 100).clamp(max=1.0) * draws.uniform(n) ** 2 * draws.sign(n)
    return flow + each(aside) * near + each(turn) + turned(outward, torch.zeros_like(roll), roll)


def _deformation(number: int, grid: Tensor, draws: Draws) -> Tensor:
    """Smooth fields (N, 2, h, w), at most about 1: a window of a field of random points."""
    points = draws.uniform(number, 2, 6, 6, low=-1.0, high=1.0)
    scale = draws.uniform(number, 2, low=0.4, high=1.0)
    start = draws.uniform(number, 2, low=-1.0, high=1.0) * (1 - scale)
    unit = grid / grid.amax((2, 3), keepdim=True) * 2 - 1
    at = (unit * each(scale) + each(start)).permute(0, 2, 3, 1)
    return F.grid_sample(points, at, mode="bicubic", padding_mode="border", align_corners=True)


def widened(flow: Tensor, centre: Tensor, stretch: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Flow (N, 2, h, w) px and points (N, 2) px of frames scaled by stretch (N, 2) about their middle."""
    middle = extent(size, flow) / 2
    outward = coarse_grid(size, flow) - each(middle[None])
    made = field_at(flow, each(middle[None]) + outward / each(stretch)) * each(stretch)
    return made, middle + (centre - middle) * stretch
