"""Outlines of cut-outs as signed distances: polygons, bars, ellipses, and those with holes."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mcjepa.data.draws import Draws
from mcjepa.data.synthetic.grids import direction

SIDE = 96  # px of the grid on which the shape of a layer is drawn
REACH = 1.25  # radii from its middle to the border of that grid
CORNERS = 11  # of a polygon, at most
SMOOTH = 0.5  # share of smooth outlines
BARS = 0.5  # share of thin ones among the others
TWIGS = 7  # of a branch, its stem included


def random_shapes(number: int, draws: Draws, holed: float = 0.0, round_ones: Tensor | None = None) -> Tensor:
    """Signed distances to the outlines of random shapes, in radii, inside above 0: (N, s, s), s = SIDE.

    Polygons about the middle within one radius, half of them smooth, and bars; a share of `holed` are rings,
    fences and branches. `round_ones` (N,) bool: those that are circles about the middle.
    The grid has REACH radii to each side.
    """
    shapes = torch.empty(number, SIDE, SIDE, device=draws.device)
    chosen = draws.fork("smooth").host.random(number) < SMOOTH
    for smooth in (True, False):
        own, rows = draws.fork(f"smooth {smooth}"), draws.send(np.flatnonzero(chosen == smooth))
        if len(rows):
            shapes[rows] = (_smooth if smooth else _sharp)(len(rows), own)
    if round_ones is not None:
        shapes = torch.where(round_ones[:, None, None], _disc(draws), shapes)
    for make in (_rings, _fences, _branches):
        own = draws.fork(make.__name__)
        rows = own.rows(number, holed / 3)
        if len(rows):
            shapes[rows] = make(shapes[rows], own)
    return shapes


def _sharp(number: int, draws: Draws) -> Tensor:
    """Bars and polygons: (N, s, s)."""
    bars = draws.chance(number, 1, 1, p=BARS)
    corners = torch.where(bars, _bars(number, draws), _polygons(number, draws))
    return _inside_distance(_points(draws), corners).reshape(number, SIDE, SIDE)


def _smooth(number: int, draws: Draws) -> Tensor:
    """Polygons smoothed by about a Gaussian of 0.12 radii, on a coarser grid: (N, s, s)."""
    side = SIDE // 3
    x = _inside_distance(_points(draws, side), _polygons(number, draws)).reshape(number, 1, side, side)
    for _ in range(3):
        x = F.avg_pool2d(F.pad(x, [1] * 4, mode="replicate"), 3, stride=1)
    return F.interpolate(x, (SIDE, SIDE), mode="bicubic", align_corners=True)[:, 0]


def _disc(draws: Draws) -> Tensor:
    """Distance to a circle of one radius: (1, s, s)."""
    return (1 - torch.linalg.vector_norm(_points(draws), dim=1)).reshape(1, SIDE, SIDE)


def _rings(shapes: Tensor, draws: Draws) -> Tensor:
    """What is near the outline: (N, s, s). Bars are as they were: they have no inside as deep as a ring."""
    width = draws.log_uniform(len(shapes), 1, 1, low=0.06, high=0.25)
    return torch.minimum(
        shapes, torch.where(shapes.amax((1, 2), keepdim=True) > 2 * width, width - shapes, shapes)
    )


def _fences(shapes: Tensor, draws: Draws) -> Tensor:
    """The part of each shape that lies on laths, half of which are crossed by others: (N, s, s)."""
    n = len(shapes)
    angle = draws.normal(n) * 0.1
    period = draws.log_uniform(n, 1, low=0.18, high=0.6)
    width = period * draws.uniform(n, 1, low=0.15, high=0.35)  # half of a lath's
    laths = []
    for normal in (direction(angle), direction(angle + math.pi / 2)):
        across = normal @ _points(draws).T + draws.uniform(n, 1)  # (N, s * s)
        laths.append(width - ((across / period) % 1 - 0.5).abs() * period)
    crossed = draws.chance(n, 1, p=0.5)
    pattern = torch.where(crossed, torch.maximum(*laths), laths[0])
    return torch.minimum(shapes.clamp(min=-1), pattern.reshape(shapes.shape))


def _branches(shapes: Tensor, draws: Draws) -> Tensor:
    """A stem with twigs, whatever the shapes were: (N, s, s)."""
    n = len(shapes)
    heading = draws.uniform(n, 1, high=2 * math.pi)
    start = -0.9 * direction(heading)  # (N, 1, 2)
    along = draws.uniform(n, TWIGS - 1, 1, low=0.3, high=0.95)
    starts = torch.cat([start, start + 1.8 * along * direction(heading)], 1)
    lean = draws.uniform(n, TWIGS - 1, low=0.4, high=1.1) * draws.sign(n, TWIGS - 1)
    lengths = torch.cat([torch.full_like(heading, 1.8), draws.uniform(n, TWIGS - 1, low=0.2, high=0.7)], 1)
    edges = lengths[..., None] * direction(torch.cat([heading, heading + lean], 1))  # (N, TWIGS, 2)
    widths = draws.log_uniform(n, 1, low=0.03, high=0.08) * torch.cat(
        [torch.ones_like(heading), 0.6 * torch.ones_like(lean)], 1
    )
    away = _squared_distance(_points(draws), starts, edges).sqrt()
    made = (widths[..., None] - away).amax(1).reshape(shapes.shape)
    return torch.minimum(made, _disc(draws))


def _points(draws: Draws, side: int = SIDE) -> Tensor:
    """The points of the grid of a shape, in radii: (s * s, 2), (x, y)."""
    ticks = torch.linspace(-REACH, REACH, side, device=draws.device)
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)


def _polygons(number: int, draws: Draws) -> Tensor:
    """Of 3 to CORNERS corners about the middle, in radii: (N, CORNERS, 2)."""
    angles = draws.uniform(number, CORNERS, high=2 * math.pi)
    radii = draws.uniform(number, CORNERS, low=0.3, high=1.0)
    used = torch.arange(CORNERS, device=draws.device) < draws.integers(number, 1, low=3, high=CORNERS + 1)
    angles, radii = (
        torch.where(used, v, v[:, :1]) for v in (angles, radii)
    )  # the others lie on the first one
    angles, order = angles.sort(1)
    stretch = draws.uniform(number, 1, 2, low=0.4, high=1.0)
    return direction(angles) * radii.gather(1, order)[..., None] * stretch


def _bars(number: int, draws: Draws) -> Tensor:
    """Rectangles as thin as poles, half of them upright, in radii: (N, CORNERS, 2)."""
    length = draws.uniform(number, 1, low=0.4, high=1.0)
    width = draws.log_uniform(number, 1, low=0.04, high=0.25)
    turn = draws.uniform(number, high=math.pi) * draws.chance(number, p=0.5)
    along, across = direction(turn + math.pi / 2) * length, direction(turn) * width  # each (N, 2)
    ends = [along + across, across - along, -along - across, along - across]
    return torch.stack([*ends, *[ends[0]] * (CORNERS - 4)], 1)


def _inside_distance(at: Tensor, corners: Tensor) -> Tensor:
    """Distance of points (P, 2) to the edges of polygons (N, K, 2), above 0 inside: (N, P)."""
    edges = corners.roll(-1, 1) - corners
    nearest = _squared_distance(at, corners, edges).amin(1).sqrt()
    # a ray to the right crosses the edges an odd number of times
    normal = torch.stack([edges[..., 1], -edges[..., 0]], -1)
    beside = normal @ at.T - (normal * corners).sum(-1, keepdim=True)  # (N, K, P), to the right of an edge
    below = at[:, 1] >= corners[..., 1:]
    crosses = (below != below.roll(-1, 1)) & ((beside < 0) == (edges[..., 1:] > 0))
    return torch.where(crosses.sum(1) % 2 == 1, nearest, -nearest)


def _squared_distance(at: Tensor, starts: Tensor, edges: Tensor) -> Tensor:
    """Of points (P, 2) to line segments (N, K, 2), from starts along edges: (N, K, P)."""
    length = edges.square().sum(-1, keepdim=True)  # squared, (N, K, 1)
    dot = edges @ at.T - (edges * starts).sum(-1, keepdim=True)  # of the way from a start, with its edge
    away = (-2 * starts) @ at.T + (at.square().sum(1) + starts.square().sum(-1, keepdim=True))
    along = (dot / length.clamp(min=1e-9)).clamp_(0, 1)
    return away.sub_(dot.mul_(2).sub_(along * length).mul_(along)).clamp_(min=0)
