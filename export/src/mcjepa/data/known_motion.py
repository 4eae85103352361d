"""Known-motion pairs: photos composed into moving layers, whose flow is known exactly, without labels.

Frame 2 is drawn from photos directly; frame 1 samples every layer where its flow points, so any flow is exact
without inverting it. Flows and places (N, 2, h, w) px, (x, y), are made on a coarse grid, each STEP-th pixel,
and interpolated in the end: what is affine stays so, and operations on all pixels are most of the work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mcjepa.data.draws import Draws, constant
from mcjepa.data.images import cut_to
from mcjepa.data.light import relight_pairs

PHOTO = (320, 480)  # (H, W) px that photos are cut to
STEP = 8  # px from point to point of the coarse grid
MOST_LAYERS = 8  # cut-outs of a pair
STREETS = 0.35  # share of the pairs whose background is seen from a car
NEAREST = 0.9  # what a street's flow is divided by stays above 1 - NEAREST
SHAPE_SIDE = 96  # px of the grid on which the shape of a layer is drawn
SHAPE_REACH = 1.5  # radii from its middle to the border of that grid
CORNERS = 11  # of a polygon, at most
BARS = 0.3  # share of the cut-outs that are thin


def as_photo(img: np.ndarray) -> np.ndarray:
    """The middle of an image (H, W, 3), those in portrait format turned: (*PHOTO, 3)."""
    return cut_to(np.rot90(img) if img.shape[0] > img.shape[1] else img, PHOTO)


@dataclass(frozen=True)
class Pairs:
    """img1, img2: uint8 (B, 3, H, W) RGB; flow: float32 (B, 2, H, W) px, of occluded pixels too."""

    img1: Tensor
    img2: Tensor
    flow: Tensor


@dataclass(frozen=True)
class Layers:
    """N photos in motion.

    photos: uint8 (N, 3, ph, pw); flow: (N, 2, h, w) px; looks: (N, 2, 2, h, w), where in the photo, -1 .. 1,
    the pixels of frames 1 and 2 look.
    """

    photos: Tensor
    flow: Tensor
    looks: Tensor

    def draw(self, rows: slice, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Some of them in both frames, float (n, 3, 2, H, W), 0 .. 255, and their flow (n, 2, H, W) px."""
        drawn = _sample(self.photos[rows].float(), _enlarge(self.looks[rows], size), "reflection")
        return drawn, _enlarge(self.flow[rows], size)


@dataclass(frozen=True)
class CutOuts:
    """Layers with a shape.

    shapes: (N, 1, s, s), above 1 within and below 0 without; places: (N, 2, 2, h, w), where in the shape,
    -1 .. 1, the pixels of frames 1 and 2 lie.
    """

    layers: Layers
    shapes: Tensor
    places: Tensor


def compose_pairs(
    photos: Tensor, number: int, size: tuple[int, int], max_motion: float, draws: Draws
) -> Pairs:
    """`number` pairs of `size` (H, W) from photos uint8 (P, 3, h, w); motions reach about `max_motion` px.

    Each pair has a reach of its own, max_motion * u^1.5 with u uniform, so that still scenes are as common as
    fast ones. Later pairs have more cut-outs before their background, 0 to MOST_LAYERS.
    """
    reach = max_motion * draws.uniform(number) ** 1.5
    camera = _camera_motion(size, reach, draws)
    frames, flow = _background(photos, size, camera, draws).draw(slice(None), size)
    share = number / (MOST_LAYERS + 1)  # of the pairs for each number of layers
    offset = draws.host.random()
    firsts = [max(math.ceil((i + 1) * share - offset), 0) for i in range(MOST_LAYERS)]
    owners = torch.cat([torch.arange(min(first, number), number, device=photos.device) for first in firsts])
    if len(owners):
        _paste(_cut_outs(photos, size, camera[owners], reach[owners], draws), firsts, frames, flow)
    img1, img2 = relight_pairs(frames[:, :, 0], frames[:, :, 1], draws)
    return Pairs(img1, img2, flow)


def _paste(cut_outs: CutOuts, firsts: list[int], frames: Tensor, flow: Tensor) -> None:
    """Draw over frames (B, 3, 2, H, W) and flow (B, 2, H, W), in place, layer by layer.

    Layer i is in the pairs from firsts[i] on; the cut-outs are in this order.
    """
    number, size, end = len(frames), (frames.shape[-2], frames.shape[-1]), 0
    for first in firsts:
        if first >= number:
            return
        rows = slice(end, end + number - first)
        end = rows.stop
        drawn, moved = cut_outs.layers.draw(rows, size)
        alpha = _sample(cut_outs.shapes[rows], _enlarge(cut_outs.places[rows], size), "border").clamp_(0, 1)
        frames[first:].lerp_(drawn, alpha)
        flow[first:] = torch.where(alpha[:, :, 0] > 0.5, moved, flow[first:])


def _background(photos: Tensor, size: tuple[int, int], flow: Tensor, draws: Draws) -> Layers:
    middle = _extent(size, flow).expand(len(flow), 2) / 2
    zoom = draws.uniform(len(flow), low=0.6, high=1.4)  # below 1 the photo is mirrored at its edges
    return _layers(photos, size, middle, zoom, flow, draws)


def _cut_outs(photos: Tensor, size: tuple[int, int], camera: Tensor, reach: Tensor, draws: Draws) -> CutOuts:
    """One for each row of `reach` (N,) and of `camera` (N, 2, h, w), the flow of its background."""
    n, side = len(reach), min(size)
    centre = draws.uniform(n, 2, low=-0.1, high=1.1) * _extent(size, camera)  # in frame 2
    radius = draws.uniform(n, low=0.06, high=0.6) * side
    flow = random_motion(size, centre, radius, reach, draws)
    # objects of a scene mostly move along with the camera
    flow = torch.where(_each(draws.chance(n, p=0.5)), 0.3 * flow + camera, flow)
    zoom = 2.2 * radius / side * draws.uniform(n, low=1.0, high=2.5)
    layers = _layers(photos, size, centre, zoom, flow, draws)
    sharpness = radius / draws.uniform(n, low=0.8, high=2.5)  # edges are so many px wide
    shapes = random_shapes(n, draws)[:, None] * _each(sharpness) + 0.5
    places = (_points(size, flow) - _each(centre)[:, :, None]) / _each(SHAPE_REACH * radius)[:, :, None]
    return CutOuts(layers, shapes, places)


def _layers(
    photos: Tensor, size: tuple[int, int], centre: Tensor, zoom: Tensor, flow: Tensor, draws: Draws
) -> Layers:
    """Random parts of random photos, turned a little, about `centre` (N, 2) px.

    With zoom 1 a photo just covers a frame.
    """
    n, extent = len(zoom), _extent(size, flow)
    photo = constant((photos.shape[3], photos.shape[2]), photos.device)
    scale = (photo / extent).amin() / zoom  # photo px a frame px
    angle, flip = 0.15 * draws.normal(n), draws.sign(n)
    c, s = scale * angle.cos(), scale * angle.sin()
    linear = torch.stack([torch.stack([c * flip, -s], 1), torch.stack([s * flip, c], 1)], 1)  # (N, 2, 2)
    slack = (photo - scale[:, None] * extent).clamp(min=0) / 2
    anchor = photo / 2 + draws.uniform(n, 2, low=-1.0, high=1.0) * slack
    outward = _points(size, flow) - _each(centre)[:, :, None]
    looks = torch.einsum("bij,bjfhw->bifhw", linear, outward) + _each(anchor)[:, :, None]
    looks = looks * _each(2 / (photo - 1)[None])[:, :, None] - 1
    return Layers(photos[draws.integers(n, low=0, high=len(photos))], flow, looks)


def _camera_motion(size: tuple[int, int], reach: Tensor, draws: Draws) -> Tensor:
    middle = _extent(size, reach).expand(len(reach), 2) / 2
    smooth = random_motion(size, middle, torch.full_like(reach, math.hypot(*size) / 2), reach, draws)
    street = street_motion(size, reach, draws)
    return torch.where(_each(draws.chance(len(reach), p=STREETS)), street, smooth)


def random_motion(
    size: tuple[int, int], centre: Tensor, radius: Tensor, reach: Tensor, draws: Draws
) -> Tensor:
    """Smooth flow fields (N, 2, h, w) px: translation, rotation, zoom, often tilt and deformation.

    Magnitudes are reach * u^2 with u uniform, so that small motions dominate. `radius` (N,) px is the size of
    what moves about `centre` (N, 2), (x, y): rotation and zoom are scaled to move its rim by a like amount.
    """
    n, grid = len(reach), coarse_grid(size, reach)
    outward = grid - _each(centre)  # (N, 2, h, w)
    share = constant((0.2, 0.6, 1.0), reach.device)[draws.integers(n, low=0, high=3)]
    rim = (reach * share / radius)[:, None] * draws.uniform(n, 3) ** 2 * draws.sign(n, 3)
    angle, zoom, tilt = rim[:, 0].clamp(-0.5, 0.5), rim[:, 1].clamp(-0.35, 0.5), rim[:, 2].clamp(-0.4, 0.4)
    shift = (reach * draws.uniform(n) ** 2)[:, None] * _direction(draws.uniform(n, high=2 * math.pi))
    flow = _turn(outward, (1 + zoom) * angle.cos() - 1, (1 + zoom) * angle.sin()) + _each(shift)
    # perspective: displacement that grows along one direction
    towards = _direction(draws.uniform(n, high=2 * math.pi)) / radius[:, None]
    along = (outward * _each(towards)).sum(1, keepdim=True).clamp(0, 1.5)  # more would fold the field
    flow = flow + outward * along * _each(tilt * draws.chance(n, p=0.3))
    amplitude = 0.25 * reach * draws.uniform(n) ** 2 * draws.chance(n, p=0.5)
    return flow + _each(amplitude) * _deformation(n, grid, draws)


def street_motion(size: tuple[int, int], reach: Tensor, draws: Draws) -> Tensor:
    """Flow fields (N, 2, h, w) px of a camera that drives between two walls over flat ground.

    A pixel is as far as the nearest of ground, walls and a far plane; the camera moves forward, sometimes
    backward, a little to the side, and turns: the motion field of Longuet-Higgins and Prazdny (1980).
    """
    (h, w), n = size, len(reach)
    horizon = draws.uniform(n, low=0.25, high=0.6) * h
    ahead = torch.stack([draws.uniform(n, low=0.2, high=0.8) * w, horizon], 1)  # where the camera drives to
    outward = coarse_grid(size, reach) - _each(ahead)
    x, y = outward.unbind(1)
    ground = y / _plane(h - horizon)
    right, left = (
        x / _plane(to_border * draws.log_uniform(n, low=1.0, high=8.0))
        for to_border in (w - ahead[:, 0], -ahead[:, 0])
    )
    near = torch.stack([ground, right, left]).amax(0).clamp(max=1.5)  # 1 / depth, 1 at the lower border
    near = torch.maximum(near, _plane(draws.uniform(n, low=0.0, high=0.1)))[:, None]
    lowest = reach * draws.uniform(n) / (h - horizon)  # motion at the lower border, in its distance
    forward = torch.where(draws.chance(n, p=0.85), lowest / (1 + lowest), -lowest)
    nearer = (_each(forward) * near).clamp(-NEAREST, NEAREST)
    flow = outward * (nearer / (1 - nearer))
    aside = 0.4 * reach[:, None] * draws.uniform(n, 2) ** 2 * draws.sign(n, 2)
    turn = reach[:, None] * constant((0.6, 0.15), reach.device) * draws.uniform(n, 2) ** 3 * draws.sign(n, 2)
    roll = 0.05 * (reach / 100).clamp(max=1.0) * draws.uniform(n) ** 2 * draws.sign(n)
    return flow + _each(aside) * near + _each(turn) + _turn(outward, torch.zeros_like(roll), roll)


def random_shapes(number: int, draws: Draws) -> Tensor:
    """Signed distances to the outlines of random shapes, in radii, inside above 0: (N, s, s), s = SHAPE_SIDE.

    Polygons about the middle within one radius, the greater part of them made smooth, and bars; the grid has
    SHAPE_REACH radii to each side.
    """
    bars = draws.chance(number, 1, 1, p=BARS)
    corners = torch.where(bars, _bars(number, draws), _polygons(number, draws))
    ticks = torch.linspace(-SHAPE_REACH, SHAPE_REACH, SHAPE_SIDE, device=draws.device)
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    sharp = _inside_distance(torch.stack([x.flatten(), y.flatten()], 1), corners)
    sharp = sharp.reshape(number, SHAPE_SIDE, SHAPE_SIDE)
    smooth = sharp
    for _ in range(3):  # together about a Gaussian of 0.15 radii
        smooth = F.avg_pool2d(F.pad(smooth, [4] * 4, mode="replicate"), 9, stride=1)
    return torch.where(draws.chance(number, 1, 1, p=0.6) & ~bars, smooth, sharp)


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
    return _direction(angles) * radii.gather(1, order)[..., None] * stretch


def _bars(number: int, draws: Draws) -> Tensor:
    """Rectangles as thin as poles, half of them upright, in radii: (N, CORNERS, 2)."""
    length = draws.uniform(number, 1, low=0.4, high=1.0)
    width = draws.log_uniform(number, 1, low=0.04, high=0.25)
    turn = draws.uniform(number, high=math.pi) * draws.chance(number, p=0.5)
    along, across = _direction(turn + math.pi / 2) * length, _direction(turn) * width  # each (N, 2)
    ends = [along + across, across - along, -along - across, along - across]
    return torch.stack([*ends, *[ends[0]] * (CORNERS - 4)], 1)


def _inside_distance(points: Tensor, corners: Tensor) -> Tensor:
    """Distance of points (P, 2) to the edges of polygons (N, K, 2), above 0 inside: (N, P)."""
    x, y = points.T[:, None, None]  # each (1, 1, P)
    ax, ay = corners.permute(2, 0, 1)[..., None]  # each (N, K, 1)
    ex, ey = (corners.roll(-1, 1) - corners).permute(2, 0, 1)[..., None]
    px, py = x - ax, y - ay  # (N, K, P)
    along = ((px * ex + py * ey) / (ex * ex + ey * ey).clamp(min=1e-9)).clamp(0, 1)
    nearest = ((px - along * ex).square() + (py - along * ey).square()).amin(1).sqrt()
    # a ray to the right crosses the edges an odd number of times
    crosses = ((py >= 0) != (py >= ey)) & ((px * ey < py * ex) == (ey > 0))
    return torch.where(crosses.sum(1) % 2 == 1, nearest, -nearest)


def _deformation(number: int, grid: Tensor, draws: Draws) -> Tensor:
    """Smooth fields (N, 2, h, w), at most about 1: a window of a field of random points."""
    points = draws.uniform(number, 2, 6, 6, low=-1.0, high=1.0)
    scale = draws.uniform(number, 2, low=0.4, high=1.0)
    start = draws.uniform(number, 2, low=-1.0, high=1.0) * (1 - scale)
    unit = grid / grid.amax((2, 3), keepdim=True) * 2 - 1
    at = (unit * _each(scale) + _each(start)).permute(0, 2, 3, 1)
    return F.grid_sample(points, at, mode="bicubic", padding_mode="border", align_corners=True)


def coarse_grid(size: tuple[int, int], like: Tensor) -> Tensor:
    """Pixel coordinates (1, 2, h, w), (x, y), of about every STEP-th pixel, first and last ones included."""
    y, x = (torch.linspace(0, side - 1, side // STEP + 1, device=like.device) for side in size)
    return torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))])[None]


def _points(size: tuple[int, int], flow: Tensor) -> Tensor:
    """Where the pixels of frames 1 and 2 lie in frame 2: (N, 2, 2, h, w), (x, y) of frame 1, of frame 2."""
    grid = coarse_grid(size, flow)
    return torch.stack([grid + flow, grid.expand_as(flow)], dim=2)


def _enlarge(fields: Tensor, size: tuple[int, int]) -> Tensor:
    """From the coarse grid (N, ..., h, w) to all pixels (N, ..., H, W)."""
    flat = fields.flatten(1, -3)
    return F.interpolate(flat, size, mode="bilinear", align_corners=True).reshape(*fields.shape[:-2], *size)


def _sample(images: Tensor, at: Tensor, outside: str) -> Tensor:
    """images (N, C, h, w) at (N, 2, 2, H, W), -1 .. 1 from the first pixel's centre to the last's.

    -> (N, C, 2, H, W); `outside` is a padding mode of grid_sample.
    """
    n, _, frames, h, w = at.shape
    where = at.permute(0, 2, 3, 4, 1).reshape(n, frames * h, w, 2)
    seen = F.grid_sample(images, where, mode="bilinear", padding_mode=outside, align_corners=True)
    return seen.reshape(n, -1, frames, h, w)


def _turn(outward: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(a x - b y, b x + a y) for vectors (N, 2, h, w) and a, b (N,)."""
    x, y = outward.unbind(1)
    a, b = _plane(a), _plane(b)
    return torch.stack([a * x - b * y, b * x + a * y], 1)


def _direction(angle: Tensor) -> Tensor:
    """(...) radians -> (..., 2), of length 1."""
    return torch.stack([angle.cos(), angle.sin()], -1)


def _extent(size: tuple[int, int], like: Tensor) -> Tensor:
    """(W, H) px, (2,)."""
    return constant(size[::-1], like.device)


def _plane(values: Tensor) -> Tensor:
    """(N,) -> (N, 1, 1), to go with (N, h, w)."""
    return values[:, None, None]


def _each(values: Tensor) -> Tensor:
    """(N,) or (N, C) -> (N, 1 or C, 1, 1), to go with (N, C, h, w)."""
    return values.reshape(len(values), -1, 1, 1)
