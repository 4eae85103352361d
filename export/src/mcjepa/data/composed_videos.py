"""Videos composed of photos: cut-outs that move before a moving background, whose masks are known exactly.

They stand in for DAVIS where there is none: propagation can be measured on them, though objects are pasted,
keep their shape up to a rotation and a zoom, and move smoothly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from mcjepa.data.images import ImageSet, open_images
from mcjepa.data.masks import write_mask
from mcjepa.files import write_atomic

SIZE = (240, 432)  # (H, W) px
FRAMES = 16
OBJECTS = (1, 4)  # fewest and most a video

Photo = Callable[[], np.ndarray]  # a random photo, uint8 RGB (H, W, 3)


@dataclass(frozen=True)
class Layer:
    """A picture with a motion of its own.

    rgba: uint8 (h, w, 4). start, velocity: px and px a frame, (x, y), of its middle; turn: radians a frame;
    growth: of the logarithm of its size, a frame; sway: px, of a swing across its way.
    """

    rgba: np.ndarray
    start: np.ndarray
    velocity: np.ndarray
    turn: float
    growth: float
    sway: float

    def at(self, t: int) -> np.ndarray:
        """The layer in frame t: uint8 RGBA of SIZE, alpha 0 where it is not."""
        h, w = self.rgba.shape[:2]
        across = np.array([-self.velocity[1], self.velocity[0]]) / max(np.hypot(*self.velocity), 1e-6)
        middle = self.start + self.velocity * t + across * self.sway * np.sin(0.6 * t)
        scale, angle = np.exp(self.growth * t), self.turn * t
        linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = np.column_stack([linear, middle - linear @ (np.array([w, h]) / 2)])
        return cv2.warpAffine(self.rgba, matrix, SIZE[::-1], flags=cv2.INTER_LINEAR)


def write_composed(root: Path, photos: list[Path], videos: int, seed: int = 0) -> None:
    """Write `videos` videos of FRAMES frames in DAVIS's layout, the same ones for the same seed.

    photos: image folders or tars. Raises FileExistsError where `root` holds anything already.
    """
    if root.exists() and any(root.iterdir()):
        raise FileExistsError(f"{root} is not empty")
    images = open_images(photos)
    for number in tqdm(range(videos), unit="video", desc="compose"):
        rng = np.random.default_rng([seed, number])
        _write(root, f"composed-{number:03d}", compose_video(partial(_draw, images, rng), rng))


def _draw(images: ImageSet, rng: np.random.Generator) -> np.ndarray:
    return images[int(rng.integers(len(images)))]


def _write(root: Path, name: str, video: Iterator[tuple[np.ndarray, np.ndarray]]) -> None:
    folder = root / "JPEGImages" / "480p" / name
    folder.mkdir(parents=True)
    for t, (img, mask) in enumerate(video):
        jpeg = cv2.imencode(".jpg", img[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
        write_atomic(folder / f"{t:05d}.jpg", jpeg.tobytes())
        write_mask(root / "Annotations" / "480p" / name / f"{t:05d}.png", mask)


def compose_video(photo: Photo, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """FRAMES frames, uint8 RGB of SIZE, each with the number of the object at every pixel, 0 for none.

    Objects start inside the frame; they may cover one another and leave it.
    """
    background = _background(photo(), rng)
    objects = [_object(photo(), rng) for _ in range(rng.integers(OBJECTS[0], OBJECTS[1] + 1))]
    for t in range(FRAMES):
        img: np.ndarray = background.at(t)[..., :3].astype(np.float32)
        mask = np.zeros(SIZE, np.uint8)
        for number, layer in enumerate(objects, start=1):
            rgba = layer.at(t).astype(np.float32)
            alpha = rgba[..., 3:] / 255
            img = img * (1 - alpha) + rgba[..., :3] * alpha
            mask[alpha[..., 0] > 0.5] = number
        yield np.clip(img + 0.5, 0, 255).astype(np.uint8), mask


def _background(photo: np.ndarray, rng: np.random.Generator) -> Layer:
    """A photo so large that its edge stays outside the frame."""
    h, w = SIZE
    rgb = _cover(photo, (2 * h, 2 * w))
    opaque = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    velocity = rng.uniform(-3, 3, 2)
    return Layer(
        opaque, np.array([w, h]) / 2, velocity, rng.uniform(-0.005, 0.005), rng.uniform(0, 0.01), 0.0
    )


def _object(photo: np.ndarray, rng: np.random.Generator) -> Layer:
    h, w = SIZE
    side = int(rng.uniform(0.3, 0.6) * h)
    rgba = np.dstack([_cover(photo, (side, side)), _blob(side, rng)])
    start = np.array([rng.uniform(0.2, 0.8) * w, rng.uniform(0.3, 0.7) * h])
    direction, speed = rng.uniform(0, 2 * np.pi), rng.uniform(1, 9)
    velocity = speed * np.array([np.cos(direction), np.sin(direction)])
    return Layer(rgba, start, velocity, rng.normal(0, 0.03), rng.normal(0, 0.015), rng.uniform(0, 6))


def _blob(side: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth shape with a soft edge: alpha, uint8 (side, side)."""
    corners = rng.integers(5, 11)
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    radii = side * rng.uniform(0.25, 0.45, corners)
    points = side / 2 + np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]
    mask = np.zeros((side, side), np.uint8)
    cv2.fillPoly(mask, [points.round().astype(np.int32)], 255)
    smooth = cv2.GaussianBlur(mask, (0, 0), 0.05 * side)
    return cv2.GaussianBlur(np.where(smooth > 127, np.uint8(255), np.uint8(0)), (0, 0), 0.8)


def _cover(photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of a photo, scaled to `size` (H, W)."""
    h, w = photo.shape[:2]
    scale = max(size[0] / h, size[1] / w)
    grown = cv2.resize(photo, (max(size[1], round(w * scale)), max(size[0], round(h * scale))))
    y, x = (grown.shape[0] - size[0]) // 2, (grown.shape[1] - size[1]) // 2
    return grown[y : y + size[0], x : x + size[1]]
