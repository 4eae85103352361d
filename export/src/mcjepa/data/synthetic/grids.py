"""Fields on a coarse grid of every STEP-th pixel, and what all makers of them share.

What is affine stays so when it is interpolated, and operations on all pixels are most of the work.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mcjepa.data.draws import Draws, constant

STEP = 8  # px from point to point of the coarse grid


class Window(NamedTuple):
    """Part of a frame, in cells of the coarse grid: from the first row and column to before the last."""

    top: int
    left: int
    bottom: int
    right: int

    def pixels(self, size: tuple[int, int]) -> tuple[slice, slice]:
        """Its rows and columns of pixels in a frame of `size` (H, W)."""
        h, w = size
        rows = slice(self.top * STEP, min(self.bottom * STEP, h))
        return rows, slice(self.left * STEP, min(self.right * STEP, w))


def whole(size: tuple[int, int]) -> Window:
    """The window that is the frame."""
    return Window(0, 0, *(-(-side // STEP) for side in size))


def coarse_grid(size: tuple[int, int], like: Tensor) -> Tensor:
    """Pixel coordinates (1, 2, h, w), (x, y), of every STEP-th pixel, the last ones at or past the border."""
    _, _, bottom, right = whole(size)
    y, x = (STEP * torch.arange(n + 1.0, device=like.device) for n in (bottom, right))
    return torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))])[None]


def enlarge(fields: Tensor, size: tuple[int, int], window: Window | None = None) -> Tensor:
    """From the coarse grid (N, ..., h, w) to the pixels of a window of a frame of `size`: (N, ..., H, W)."""
    top, left, bottom, right = window or whole(size)
    part = fields[..., top : bottom + 1, left : right + 1]
    full = ((bottom - top) * STEP + 1, (right - left) * STEP + 1)
    made = F.interpolate(part.flatten(1, -3), full, mode="bilinear", align_corners=True)
    rows, columns = Window(top, left, bottom, right).pixels(size)
    made = made[..., : rows.stop - rows.start, : columns.stop - columns.start]
    return made.reshape(*fields.shape[:-2], *made.shape[-2:])


def covered(places: Tensor, size: tuple[int, int]) -> Window | None:
    """The window that holds all pixels whose places (N, 2, frames, h, w) are within -1 .. 1; None for none.

    On a GPU the whole frame: to ask it for numbers means to wait for it.
    """
    if places.is_cuda:
        return whole(size)
    low, high = places, places
    for dim, length in ((3, places.shape[3] - 1), (4, places.shape[4] - 1)):  # over the corners of each cell
        low = torch.minimum(low.narrow(dim, 0, length), low.narrow(dim, 1, length))
        high = torch.maximum(high.narrow(dim, 0, length), high.narrow(dim, 1, length))
    hit = ((low < 1) & (high > -1)).all(1).flatten(0, 1).any(0)
    rows, columns = hit.any(1).nonzero()[:, 0].tolist(), hit.any(0).nonzero()[:, 0].tolist()
    return Window(rows[0], columns[0], rows[-1] + 1, columns[-1] + 1) if rows else None


def enlarge_points(at: Tensor, size: tuple[int, int], window: Window | None = None) -> Tensor:
    """`enlarge` for what `sample` takes: (N, 2, frames, h, w) -> (N, frames, H, W, 2)."""
    return enlarge(at, size, window).permute(0, 2, 3, 4, 1).contiguous()


def sample(images: Tensor, at: Tensor, outside: str) -> Tensor:
    """images (N, C, h, w) at (N, frames, H, W, 2), -1 .. 1 from the first pixel's centre to the last's.

    -> (N, C, frames, H, W); `outside` is a padding mode of grid_sample.
    """
    where = at.flatten(1, 2)
    seen = F.grid_sample(images, where, mode="bilinear", padding_mode=outside, align_corners=True)
    return seen.unflatten(2, (at.shape[1], at.shape[2]))


def points(size: tuple[int, int], flow: Tensor) -> Tensor:
    """Where the pixels of frames 1 and 2 lie in frame 2: (N, 2, 2, h, w), (x, y) of frame 1, of frame 2."""
    grid = coarse_grid(size, flow)
    return torch.stack([grid + flow, grid.expand_as(flow)], dim=2)


def field_at(fields: Tensor, at: Tensor) -> Tensor:
    """Values of coarse fields (N, C, h, w) at px (N, 2, ...), the nearest ones outside: (N, C, ...)."""
    last = constant((fields.shape[3] - 1.0, fields.shape[2] - 1.0), fields.device) * STEP
    unit = (at.flatten(2) * (2 / last)[:, None] - 1).transpose(1, 2)[:, None]
    seen = F.grid_sample(fields, unit, mode="bilinear", padding_mode="border", align_corners=True)
    return seen[:, :, 0].reshape(*fields.shape[:2], *at.shape[2:])


def smooth_field(shape: tuple[int, int], grid: tuple[int, int], draws: Draws) -> Tensor:
    """Smooth random fields (*shape, h, w), at most about 1, on a grid of h x w points."""
    knots = draws.uniform(*shape, 4, 5, low=-1.0, high=1.0)
    return F.interpolate(knots, grid, mode="bicubic", align_corners=True)


def turned(outward: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(a x - b y, b x + a y) for vectors (N, 2, h, w) and a, b (N,)."""
    x, y = outward.unbind(1)
    a, b = plane(a), plane(b)
    return torch.stack([a * x - b * y, b * x + a * y], 1)


def direction(angle: Tensor) -> Tensor:
    """(...) radians -> (..., 2), of length 1."""
    return torch.stack([angle.cos(), angle.sin()], -1)


def extent(size: tuple[int, int], like: Tensor) -> Tensor:
    """(W, H) px, (2,)."""
    return constant(size[::-1], like.device)


def plane(values: Tensor) -> Tensor:
    """(N,) -> (N, 1, 1), to go with (N, h, w)."""
    return values[:, None, None]


def each(values: Tensor) -> Tensor:
    """(N,) or (N, C) -> (N, 1 or C, 1, 1), to go with (N, C, h, w)."""
    return values.reshape(len(values), -1, 1, 1)
