"""Cut-outs of a batch of pairs: where they are, how they move and turn, what they look like."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mcjepa.config import SyntheticConfig
from mcjepa.data.draws import Draws
from mcjepa.data.synthetic import shapes
from mcjepa.data.synthetic.grids import coarse_grid, direction, each, extent, field_at, points, turned
from mcjepa.data.synthetic.layers import LONGEST, CutOuts, make_layers
from mcjepa.data.synthetic.motion import object_motion, widened

WIDEST_EDGE = 0.4  # radii
SMALLEST = 4.0  # px, the radius of a limb at the end of a chain


@dataclass(frozen=True)
class Scene:
    """What the layers of B pairs of `size` (H, W) have in common.

    camera: (B, 2, h, w) px, the flow of the backgrounds; reach, most: (B,) px, as `random_reach` gives them;
    stretch: (B, 2), how much wider and higher a pair is than its layers are made; shutter: (B,), the share
    of the time that it is open.
    """

    size: tuple[int, int]
    camera: Tensor
    reach: Tensor
    most: Tensor
    stretch: Tensor
    shutter: Tensor

    def shutter_of(self, pairs: Tensor, speed: Tensor) -> Tensor:
        """The shutters of layers of these pairs (N,), at a speed (N,) px: none blurs by more than LONGEST."""
        return torch.minimum(self.shutter[pairs], LONGEST / speed.clamp(min=1e-3))


@dataclass
class Bodies:
    """Discs (N,) that outlines lie within: centre (N, 2) px in frame 2, radius (N,) px, flow (N, 2, h, w) px.

    limb: (N,) bool, those that turn about a joint; they lie along their heading (N,) and are `thin` (N,) of
    their length.
    """

    centre: Tensor
    radius: Tensor
    flow: Tensor
    limb: Tensor
    heading: Tensor
    thin: Tensor


def rows_of(firsts: Sequence[int], number: int) -> Iterator[tuple[int, slice]]:
    """(pair, rows) of each cut-out that any of `number` pairs has: it is in the pairs from that one on."""
    end = 0
    for first in firsts:
        rows = slice(end, end + number - first)
        end = rows.stop
        if first < number:
            yield first, rows


def make_cut_outs(
    photos: Tensor, firsts: Sequence[int], scene: Scene, config: SyntheticConfig, draws: Draws
) -> CutOuts:
    """All cut-outs of a batch: the first ones of all pairs that have any, then the second ones, and so on."""
    number, device = len(scene.reach), photos.device
    owners = torch.cat([torch.arange(first, number, device=device) for first, _ in rows_of(firsts, number)])
    bodies = _bodies(owners, scene, config, draws.fork("bodies"))
    _grow_limbs(bodies, firsts, scene, config, draws.fork("limbs"))
    n, size, stretch = len(owners), scene.size, scene.stretch[owners]
    flow, centre = widened(bodies.flow, bodies.centre, stretch, size)
    speed = torch.linalg.vector_norm(field_at(flow, centre[:, :, None])[..., 0], dim=1)
    half = bodies.radius[:, None] * stretch
    shutter = scene.shutter_of(owners, speed)
    own = draws.fork("layers")
    layers, softness = make_layers(photos, size, centre, half, flow, shutter, stretch, config, own)
    own = draws.fork("outlines")
    edge = own.uniform(n, low=0.8, high=2.5) + 2 * softness  # px; a wider one would reach past the grid
    edge = torch.minimum(edge, WIDEST_EDGE * bodies.radius)
    outlines = shapes.random_shapes(n, own, config.holed, bodies.limb)[:, None]
    outlines = outlines * each(bodies.radius / edge) + 0.5
    outward = (points(size, flow) - each(centre)[:, :, None]) / each(stretch)[:, :, None]
    angle = (bodies.heading * bodies.limb)[:, None, None, None]
    x, y = outward.unbind(1)
    along, across = angle.cos() * x + angle.sin() * y, angle.cos() * y - angle.sin() * x
    reach = (shapes.REACH * bodies.radius)[:, None, None, None]
    places = torch.stack([along / reach, across / (reach * bodies.thin[:, None, None, None])], 1)
    return CutOuts(layers, outlines, places)


def _bodies(owners: Tensor, scene: Scene, config: SyntheticConfig, draws: Draws) -> Bodies:
    n, side = len(owners), min(scene.size)
    centre = draws.uniform(n, 2, low=-0.1, high=1.1) * extent(scene.size, scene.camera)
    radius = draws.log_uniform(n, low=0.09, high=0.9) * side
    reach, camera = scene.reach[owners], scene.camera[owners]
    most = scene.most[owners]
    flow = object_motion(scene.size, centre, radius, reach, most, camera, config, draws)
    limb, heading = draws.chance(n, p=config.limbs), draws.uniform(n, high=2 * math.pi)
    return Bodies(centre, radius, flow, limb, heading, torch.ones_like(radius))


def _grow_limbs(
    bodies: Bodies, firsts: Sequence[int], scene: Scene, config: SyntheticConfig, draws: Draws
) -> None:
    """Put each limb to the end of the cut-out before it, with that one's motion and a turn, in place."""
    n, number, grid = len(bodies.radius), len(scene.reach), coarse_grid(scene.size, bodies.radius)
    lean, length = draws.uniform(n, low=-1.2, high=1.2), draws.uniform(n, low=0.5, high=1.0)
    thin, turn = draws.uniform(n, low=0.25, high=0.6), draws.uniform(n, low=-1.0, high=1.0)
    before: tuple[int, slice] | None = None
    for first, rows in rows_of(firsts, number):
        limb = bodies.limb[rows]
        if before is None:
            limb &= False  # the first cut-out of a pair has none before it
        else:
            parent = slice(before[1].start + first - before[0], before[1].stop)
            radius = bodies.radius[parent]
            out = torch.where(bodies.limb[parent], 0.8, 0.45) * radius
            joint = bodies.centre[parent] + out[:, None] * direction(bodies.heading[parent])
            radius, heading = (radius * length[rows]).clamp(min=SMALLEST), bodies.heading[parent] + lean[rows]
            centre = joint + 0.8 * radius[:, None] * direction(heading)
            most = (scene.reach[first:] / radius).clamp(max=0.7)
            origin = _in_frame_1(joint, bodies.flow[parent])
            angle = most * turn[rows]
            flow = bodies.flow[parent] + turned(grid - each(origin), angle.cos() - 1, angle.sin())
            bodies.centre[rows] = torch.where(limb[:, None], centre, bodies.centre[rows])
            bodies.radius[rows] = torch.where(limb, radius, bodies.radius[rows])
            bodies.heading[rows] = torch.where(limb, heading, bodies.heading[rows])
            bodies.flow[rows] = torch.where(each(limb), flow, bodies.flow[rows])
            bodies.thin[rows] = torch.where(limb, thin[rows], 1.0)
        before = first, rows


def _in_frame_1(at: Tensor, flow: Tensor) -> Tensor:
    """Where points (N, 2) px of frame 2 come from by flow (N, 2, h, w), about."""
    origin = at
    for _ in range(3):
        origin = at - field_at(flow, origin[:, :, None])[..., 0]
    return origin
