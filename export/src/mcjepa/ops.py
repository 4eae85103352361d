"""Pure tensor operations of the flow pipeline.

Convention: images and features are (B, C, H, W); flow is (B, 2, H, W) in pixels of its own grid, channel 0 is
dx (to the right), channel 1 is dy (down); pixel centres lie at integers; flow at (x, y) of frame 1 points to
(x + dx, y + dy) of frame 2.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

CELLS = 64  # that images, multiples of 64 on both sides, are cut into along each side


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision and integers become float32; float64 stays, so that rounding can be measured."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def pixel_grid(like: Tensor) -> Tensor:
    """Pixel coordinates (1, 2, H, W), (x, y), of a tensor (..., H, W), in its dtype and on its device."""
    h, w = like.shape[-2:]
    ys = torch.arange(h, device=like.device, dtype=like.dtype)
    xs = torch.arange(w, device=like.device, dtype=like.dtype)
    return torch.stack([xs[None, :].expand(h, w), ys[:, None].expand(h, w)])[None]


def normalise(feats: Tensor) -> Tensor:
    """(B, C, H, W) to length 1 over the channels at each position; 0 where the features are 0.

    F.normalize, less a pass, and with a product in place of a sum over the channels: ONNX Runtime takes a
    ninth of the time for it.
    """
    ones = feats.new_ones(1, feats.shape[1])
    squares = (ones @ (feats * feats).flatten(2)).unflatten(2, feats.shape[2:])  # (B, 1, H, W)
    return feats * torch.rsqrt(squares.clamp_min(1e-24))


def warp(feats2: Tensor, flow: Tensor) -> Tensor:
    """Sample frame 2 where the flow points: out(x) = feats2(x + flow(x)), bilinear.

    feats2 (B, C, H, W), flow (B, 2, H, W) px -> (B, C, H, W). Points outside take the nearest border value.
    """
    if torch.compiler.is_exporting() and feats2.shape[1] > 1:  # one channel is best left to GridSample
        return _warp_by_rows(feats2, flow)
    h, w = flow.shape[-2:]
    coords = pixel_grid(flow) + flow
    # grid_sample wants -1 .. 1; align_corners=True puts -1 and 1 on the centres of the border pixels
    x = coords[:, 0] * (2.0 / max(w - 1, 1)) - 1.0
    y = coords[:, 1] * (2.0 / max(h - 1, 1)) - 1.0
    grid = torch.stack([x, y], dim=-1)  # (B, H, W, 2)
    return F.grid_sample(feats2, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _warp_by_rows(feats2: Tensor, flow: Tensor) -> Tensor:
    """The same, all channels of a position at once; ONNX Runtime's GridSample goes channel by channel."""
    b, c, h, w = feats2.shape
    x, y = (pixel_grid(flow) + flow).unbind(1)  # each (B, H, W)
    x, y = x.clamp(0, w - 1), y.clamp(0, h - 1)
    left, top = x.floor().clamp(max=w - 2), y.floor().clamp(max=h - 2)
    first = torch.arange(b, device=flow.device)[:, None, None] * (h * w)
    corner = (first + (top * w + left).long()).flatten()
    rows = feats2.permute(0, 2, 3, 1).reshape(b * h * w, c)
    across, down = (x - left).flatten(), (y - top).flatten()
    shares = [(1 - across) * (1 - down), across * (1 - down), (1 - across) * down, across * down]
    corners = [corner, corner + 1, corner + w, corner + w + 1]
    terms = [rows.index_select(0, i) * s[:, None] for i, s in zip(corners, shares, strict=True)]
    return sum(terms[1:], terms[0]).reshape(b, h, w, c).permute(0, 3, 1, 2)


def inside(flow: Tensor) -> Tensor:
    """1.0 where the flow ends within the frame, else 0.0: (B, 2, H, W) px -> (B, 1, H, W)."""
    h, w = flow.shape[-2:]
    x, y = (pixel_grid(flow) + flow).unbind(1)
    ok = (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)
    return ok[:, None].to(flow.dtype)


def local_correlation(feats1: Tensor, feats2: Tensor, radius: int, block: int = 1) -> Tensor:
    """Dot products of each position of frame 1 with the (2r+1)^2 positions around it in frame 2.

    feats1, feats2 (B, C, H, W) -> (B, (2r+1)^2, H, W); channel (dy + r) * (2r+1) + (dx + r) holds shift
    (dx, dy); zero outside the frame. Equation 2 of PWC-Net (Sun et al., 2018) without the 1/C, for normalised
    features. W is a multiple of `block`: each run of `block` positions meets each of its 2r+1 rows of
    candidates in one matrix product. That costs (block + 2r) / (2r+1) times the products needed, and no large
    intermediate.
    """
    b, c, h, w = feats1.shape
    d, runs = 2 * radius + 1, w // block
    source = feats1.permute(0, 2, 3, 1).reshape(b * h * runs, block, c)
    candidates = _candidates(feats2, radius, block)  # (B, H + 2r, runs, block + 2r, C)
    rows = []
    for i in range(d):
        target = candidates[:, i : i + h].reshape(b * h * runs, block + 2 * radius, c)
        products = torch.bmm(
            source, target.transpose(1, 2)
        )  # (., block, block + 2r): wanted is a diagonal band
        skewed = F.pad(products.flatten(1), [0, block]).reshape(-1, block, block + d)
        rows.append(skewed[..., :d])
    return torch.cat(rows, dim=2).reshape(b, h, w, d * d).permute(0, 3, 1, 2)


def _candidates(feats2: Tensor, radius: int, block: int) -> Tensor:
    """What each run of `block` positions may match in its row.

    feats2 (B, C, H, W) -> (B, H + 2r, W / block, block + 2r, C).
    """
    runs, more = feats2.shape[-1] // block, -(-2 * radius // block)  # runs that overhang to the right
    padded = F.pad(feats2, [radius, more * block - radius, radius, radius]).permute(0, 2, 3, 1)
    cells = padded.reshape(*padded.shape[:2], runs + more, block, padded.shape[-1])
    wanted = [block] * more + [block + 2 * radius - more * block]  # of each of the runs that a run reaches
    return torch.cat([cells[:, :, i : i + runs, :n] for i, n in enumerate(wanted)], dim=3)


def _correlation_of_tiles(feats1: Tensor, feats2: Tensor, radius: int, block: int) -> Tensor:
    """The same for inference, tile by tile: (B * H * W / (h * w), (2r+1)^2, h, w), (h, w) a tile's size.

    A tile of positions meets all that is around it in one product: runtimes spend less on few large products
    than on many small ones, though only a quarter of what these give is wanted. Tiles are of up to 4 rows and
    of `block` columns; H and W are multiples of them.
    """
    b, c, h, w = feats1.shape
    tile_h, tile_w = min(block, 4), block
    across, down = w // tile_w, h // tile_h
    tiles = feats1.permute(0, 2, 3, 1).reshape(b, down, tile_h, across, tile_w, c).permute(0, 1, 3, 2, 4, 5)
    window_h, window_w = tile_h + 2 * radius, tile_w + 2 * radius  # around a tile
    cell = math.gcd(tile_w, 2 * radius)  # positions of a row: windows are whole cells
    cells = F.pad(feats2, [radius] * 4).permute(0, 2, 3, 1).reshape(-1, cell * c)
    rows = torch.arange(b)[:, None, None] * (h + 2 * radius) + torch.arange(0, h, tile_h)[:, None]
    rows = (rows + torch.arange(window_h))[:, :, None, :, None]
    columns = torch.arange(across)[:, None, None] * (tile_w // cell) + torch.arange(window_w // cell)
    windows = cells.index_select(0, (rows * ((w + 2 * radius) // cell) + columns).flatten())
    tiles = tiles.reshape(-1, tile_h * tile_w, c)
    products = torch.bmm(windows.reshape(-1, window_h * window_w, c), tiles.transpose(1, 2))
    corr = products.flatten(1).index_select(1, _wanted_products(radius, tile_h, tile_w))
    return corr.reshape(products.shape[0], -1, tile_h, tile_w)


def _lay_out(tiles: Tensor, h: int, w: int) -> Tensor:
    """Tiles (., C, tile_h, tile_w), row by row of each map, to the maps (B, C, H, W)."""
    c, tile_h, tile_w = tiles.shape[1:]
    rows = tiles.reshape(-1, h // tile_h, w // tile_w, c, tile_h, tile_w).permute(0, 3, 1, 4, 2, 5)
    return rows.reshape(-1, c, h, w)


def _wanted_products(radius: int, tile_h: int, tile_w: int) -> Tensor:
    """Indices of shifts (dy, dx) at positions (y, x) of a tile, among the products of its window with it."""
    d = 2 * radius + 1
    dy, dx, y, x = torch.meshgrid(*(torch.arange(n) for n in (d, d, tile_h, tile_w)), indexing="ij")
    candidate = (y + dy) * (tile_w + 2 * radius) + x + dx
    return (candidate * (tile_h * tile_w) + y * tile_w + x).flatten()


def shift_vectors(radius: int, like: Tensor) -> Tensor:
    """The displacements (dx, dy) px of the channels of `local_correlation`: ((2r+1)^2, 2)."""
    r = torch.arange(-radius, radius + 1, device=like.device, dtype=like.dtype)
    dy, dx = torch.meshgrid(r, r, indexing="ij")
    return torch.stack([dx.flatten(), dy.flatten()], dim=1)


def soft_argmax(corr: Tensor, temperature: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Expected shift and greatest weight under softmax(temperature * corr), corr cosines in -1 .. 1.

    corr (B, (2r+1)^2, H, W) -> displacement (B, 2, H, W) px of this grid, (dx, dy), and peak (B, 1, H, W) in
    0 .. 1. Numerators and denominator are one product.
    """
    weights = torch.exp(temperature * (corr - corr.amax(dim=1, keepdim=True)))  # the greatest is 1
    shifts = shift_vectors(radius, corr)  # ((2r+1)^2, 2)
    sums = torch.cat([shifts, torch.ones_like(shifts[:, :1])], dim=1).T @ weights.flatten(2)
    sums = sums.unflatten(2, corr.shape[2:])  # (B, 3, H, W)
    return sums[:, :2] / sums[:, 2:], 1.0 / sums[:, 2:]


def match(
    feats1: Tensor, feats2: Tensor, radius: int, block: int, temperature: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`local_correlation` and, of it, `soft_argmax`: corr, displacement and peak.

    For inference a soft-argmax is taken of each tile, where the cosines of a position lie close together: the
    greatest is found in a twentieth of the time.
    """
    if not torch.compiler.is_exporting():
        corr = local_correlation(feats1, feats2, radius, block)
        return corr, *soft_argmax(corr, temperature, radius)
    h, w = feats1.shape[2:]
    corr = _correlation_of_tiles(feats1, feats2, radius, block)
    displacement, peak = soft_argmax(corr, temperature, radius)
    return _lay_out(corr, h, w), _lay_out(displacement, h, w), _lay_out(peak, h, w)


def upsample_flow_bilinear(flow: Tensor, factor: int = 2) -> Tensor:
    """Resolution and values times `factor`: (B, 2, H, W) -> (B, 2, factor * H, factor * W)."""
    return F.interpolate(factor * flow, scale_factor=float(factor), mode="bilinear", align_corners=False)


def window(padded: Tensor, i: int, j: int) -> Tensor:
    """What is left of (B, C, H + 2, W + 2) from row i and column j on, 0 to 2 both: (B, C, H, W).

    Negative padding: one node of a graph, where slices are two, whose ends are computed anew at every run.
    """
    return F.pad(padded, [-j, j - 2, -i, i - 2])


def resize_area(images: Tensor, side: int) -> Tensor:
    """Images (B, C, H, W) averaged over equal areas to (B, C, side, side): cv2.INTER_AREA for shrinking.

    H, W and side are multiples of 64: each 64th of a row makes side / 64 pixels, whatever the others are.
    """
    b, c, h, w = images.shape
    part = side // CELLS
    rows, columns = _area_weights(h // CELLS, part, images), _area_weights(w // CELLS, part, images)
    shrunk = rows @ images.reshape(b, c, CELLS, h // CELLS, w)  # (B, C, 64, side / 64, W)
    return (shrunk.reshape(b, c, side, CELLS, w // CELLS) @ columns.T).reshape(b, c, side, side)


def _area_weights(size: int, side: int, like: Tensor) -> Tensor:
    """Share of each of `size` pixels in each of `side` equal parts of a row: (side, size), rows sum to 1."""
    part = size / side
    starts = torch.arange(side, device=like.device, dtype=like.dtype)[:, None] * part
    pixels = torch.arange(size, device=like.device, dtype=like.dtype)[None, :]
    overlap = torch.minimum(starts + part, pixels + 1) - torch.maximum(starts, pixels)
    return overlap.clamp(min=0.0) / part


def occlusion_mask(flow12: Tensor, flow21: Tensor) -> Tensor:
    """1.0 where a point of frame 1 is visible in frame 2, else 0.0: forward-backward consistency.

    flow12, flow21 (B, 2, H, W) px -> (B, 1, H, W). Visible: |f + b|^2 < 0.01 (|f|^2 + |b|^2) + 0.5 px^2,
    after Sundaram, Brox and Keutzer (2010), and the flow ends inside the frame.
    """
    back = warp(flow21, flow12)
    gap = (flow12 + back).square().sum(1, keepdim=True)
    size = flow12.square().sum(1, keepdim=True) + back.square().sum(1, keepdim=True)
    return (gap < 0.01 * size + 0.5).to(flow12.dtype) * inside(flow12)
