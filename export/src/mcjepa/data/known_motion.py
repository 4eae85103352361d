"""Known-motion pairs: photos composed into moving layers, whose flow is known exactly, without labels.

Frame 2 is drawn from the photos directly; frame 1 samples every layer where its flow points, so the flow of a
layer may be any smooth field and is exact without inverting it. Layers occlude each other in the same order
in both frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from mcjepa.data.augment import photometric

Image = np.ndarray  # uint8 (H, W, 3) RGB
Array = np.ndarray  # float32


@dataclass(frozen=True)
class KnownMotionPair:
    """img1, img2: uint8 (H, W, 3) RGB; flow: float32 (H, W, 2) px, (dx, dy), of occluded pixels too."""

    img1: Image
    img2: Image
    flow: Array


def compose_pair(
    photo: Callable[[], Image], size: tuple[int, int], max_motion: float, rng: np.random.Generator
) -> KnownMotionPair:
    """One pair of `size` (H, W); `photo()` gives a random photo; displacements reach about `max_motion` px.

    Each pair has a reach of its own, max_motion * u^1.5 with u uniform, so that still scenes are as common as
    fast ones.
    """
    max_motion *= rng.random() ** 1.5
    img1, img2, flow = _background(photo(), size, max_motion, rng)
    camera = flow
    for _ in range(rng.integers(0, 7)):
        layer = _layer(photo(), size, max_motion, camera, rng)
        img1, img2, flow = _paste(img1, img2, flow, *layer)
    img1, img2 = photometric(_to_uint8(img1), _to_uint8(img2), rng)
    return KnownMotionPair(img1, img2, flow)


def _background(
    photo: Image, size: tuple[int, int], max_motion: float, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    h, w = size
    flow = random_motion(size, (w / 2, h / 2), float(np.hypot(h, w)) / 2, max_motion, rng)
    placement = _placement(photo, (w / 2, h / 2), (w, h), 1.0 + rng.uniform(0.0, 0.5), rng)
    img1, img2 = _draw(photo, flow, placement)
    return img1, img2, flow


def _layer(
    photo: Image, size: tuple[int, int], max_motion: float, camera: Array, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """A cut-out of a photo with a motion of its own: RGBA in frame 1, RGBA in frame 2, flow."""
    h, w = size
    centre = (rng.uniform(-0.1, 1.1) * w, rng.uniform(-0.1, 1.1) * h)  # in frame 2
    radius = rng.uniform(0.06, 0.4) * min(h, w)
    flow = random_motion(size, centre, radius, max_motion, rng)
    if rng.random() < 0.5:  # objects of a scene mostly move along with the camera
        flow = flow * np.float32(0.3) + camera
    zoom = 2.2 * radius / min(h, w) * rng.uniform(1.0, 2.5)
    placement = _placement(photo, centre, (w, h), zoom, rng)
    drawn1, drawn2 = _draw(photo, flow, placement)
    mask, corner = _blob(radius, rng), np.array(centre, np.float32) - np.float32(1.5 * radius)
    x1, y1 = _sampling_map(flow)
    alpha1 = cv2.remap(mask, x1 - corner[0], y1 - corner[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    alpha2 = cv2.warpAffine(mask, np.array([[1, 0, corner[0]], [0, 1, corner[1]]], np.float32), (w, h))
    return np.dstack([drawn1, alpha1]), np.dstack([drawn2, alpha2]), flow


def random_motion(
    size: tuple[int, int],
    centre: tuple[float, float],
    radius: float,
    max_motion: float,
    rng: np.random.Generator,
) -> Array:
    """A smooth flow field (H, W, 2) px: translation, rotation, zoom, often tilt and deformation.

    Magnitudes are max_motion * u^2 with u uniform, so that small motions dominate. `radius` px is the size of
    what moves about `centre` (x, y): rotation and zoom are scaled to move its rim by a like amount.
    """
    h, w = size
    direction = rng.uniform(0, 2 * np.pi)
    shift = max_motion * rng.random() ** 2
    xs = (np.arange(w, dtype=np.float32) - np.float32(centre[0]))[None, :]
    ys = (np.arange(h, dtype=np.float32) - np.float32(centre[1]))[:, None]
    rim = max_motion * rng.random(3) ** 2 * rng.choice([-1, 1], 3) * rng.choice([0.2, 0.6, 1.0])
    angle = float(np.clip(rim[0] / radius, -0.5, 0.5))
    zoom = float(np.clip(rim[1] / radius, -0.35, 0.5))
    a, b = (1 + zoom) * np.cos(angle) - 1, (1 + zoom) * np.sin(angle)
    dx = a * xs - b * ys + np.float32(shift * np.cos(direction))
    dy = b * xs + a * ys + np.float32(shift * np.sin(direction))
    flow = np.stack([dx, dy], axis=-1).astype(np.float32)
    if rng.random() < 0.3:
        flow = _tilt(flow, xs, ys, float(rim[2]), radius, rng)
    if rng.random() < 0.5:
        flow += _deformation(size, 0.25 * max_motion * rng.random() ** 2, rng)
    return flow


def _tilt(flow: Array, xs: Array, ys: Array, rim: float, radius: float, rng: np.random.Generator) -> Array:
    """Perspective: displacement that grows along one direction, as on the ground before a moving camera."""
    direction = rng.uniform(0, 2 * np.pi)
    along = (xs * np.float32(np.cos(direction)) + ys * np.float32(np.sin(direction))) / np.float32(radius)
    gain = np.clip(along, 0, 3)[..., None] * np.float32(np.clip(rim / radius, -0.4, 0.4))
    outward = np.stack(np.broadcast_arrays(xs, ys), axis=-1)
    return (flow + gain * outward).astype(np.float32)


def _deformation(size: tuple[int, int], amplitude: float, rng: np.random.Generator) -> Array:
    """Smooth field (H, W, 2) px from a coarse random grid, at most about `amplitude` px."""
    cells = rng.integers(3, 7, 2)
    coarse = rng.uniform(-1, 1, (*cells, 2)).astype(np.float32) * np.float32(amplitude)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def _placement(
    photo: Image,
    centre: tuple[float, float],
    size: tuple[float, float],
    zoom: float,
    rng: np.random.Generator,
) -> Array:
    """Affine (2, 3) from frame to photo pixels: a random part of the photo, turned a little, about `centre`.

    With zoom 1 the photo just covers a frame of `size` (W, H).
    """
    ph, pw = photo.shape[:2]
    scale = min(pw / size[0], ph / size[1]) / zoom  # photo px a frame px
    angle = rng.normal(0, 0.15)
    flip = rng.choice([-1.0, 1.0])
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[c * flip, -s], [s * flip, c]])
    slack = np.maximum(np.array([pw, ph]) - scale * np.array(size), 0) / 2
    anchor = np.array([pw, ph]) / 2 + rng.uniform(-1, 1, 2) * slack
    return np.column_stack([linear, anchor - linear @ np.array(centre)]).astype(np.float32)


def _draw(photo: Image, flow: Array, placement: Array) -> tuple[Array, Array]:
    """The photo as seen in frame 1 (where the flow points) and in frame 2: float32 (H, W, 3) each."""
    h, w = flow.shape[:2]
    x1, y1 = _sampling_map(flow)
    a = placement
    map_x = a[0, 0] * x1 + a[0, 1] * y1 + a[0, 2]
    map_y = a[1, 0] * x1 + a[1, 1] * y1 + a[1, 2]
    img1 = cv2.remap(photo, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    img2 = cv2.warpAffine(photo, a, (w, h), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    return img1, img2


def _sampling_map(flow: Array) -> tuple[Array, Array]:
    """Where each pixel of frame 1 lies in frame 2: x and y, float32 (H, W)."""
    h, w = flow.shape[:2]
    xs = np.arange(w, dtype=np.float32)[None, :] + flow[..., 0]
    ys = np.arange(h, dtype=np.float32)[:, None] + flow[..., 1]
    return xs, ys


def _blob(radius: float, rng: np.random.Generator) -> Array:
    """Soft mask (3 radius, 3 radius), 0 .. 1: a random polygon about the middle, or its smooth version."""
    side = int(np.ceil(3 * radius))
    mask = np.zeros((side, side), np.uint8)
    corners = rng.integers(3, 12)
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = radius * rng.uniform(0.3, 1.0, corners)
    points = (
        np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None] * rng.uniform(0.3, 1.0, 2) + side / 2
    )
    cv2.fillPoly(mask, [points.round().astype(np.int32)], 255, cv2.LINE_AA)
    if rng.random() < 0.6:  # a blob: blurred, then cut at half its height
        smooth = cv2.GaussianBlur(mask, (0, 0), max(0.15 * radius, 1.0))
        mask = np.where(smooth > 100, np.uint8(255), np.uint8(0))
    soft = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.4, 1.0))
    return soft.astype(np.float32) / np.float32(255.0)


def _paste(
    img1: Array, img2: Array, flow: Array, layer1: Array, layer2: Array, layer_flow: Array
) -> tuple[Array, Array, Array]:
    img1 = _over(img1, layer1)
    img2 = _over(img2, layer2)
    return img1, img2, np.where(layer1[..., 3:] > 0.5, layer_flow, flow)


def _over(below: Array, layer: Array) -> Array:
    alpha = layer[..., 3:]
    return below * (1 - alpha) + layer[..., :3] * alpha


def _to_uint8(image: Array) -> Image:
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)
