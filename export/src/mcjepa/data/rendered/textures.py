"""Textures that repeat or hold little, and the holes of fences and leaves, made once a process."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

MASK_SIDE = 128  # px of a pattern of holes
PATTERNS, REPEATED = 17, 8  # number of patterns, and of the first that repeats
HOLES, LEAVES = 8, 3  # number of patterns of holes, and how many of the first are leaves


def _noise(size: tuple[int, int], finest: float, slope: float, rng: np.random.Generator) -> np.ndarray:
    """Draw smooth noise, 0 .. 1, from waves as long as the image down to `finest` px."""
    h, w = size
    out, scale, weight = np.zeros(size, np.float32), float(min(size)) / 2, 1.0
    while scale >= finest:
        points = rng.random((max(int(h / scale), 2), max(int(w / scale), 2))).astype(np.float32)
        out += weight * cv2.resize(points, (w, h), interpolation=cv2.INTER_CUBIC)
        scale, weight = scale / 2, weight * slope
    out -= out.min()
    return out / max(out.max(), 1e-6)


def _bricks(size: tuple[int, int], rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    h, w = size
    y, x = np.mgrid[:h, :w] / np.array([h / rows, w / columns])[:, None, None]
    x = x + (np.floor(y) % 2) / 2
    shade = rng.uniform(0.45, 0.85, (rows + 1, columns + 2))[y.astype(int), x.astype(int)]
    joint = (y % 1 < 0.12) | (x % 1 < 0.06)
    return np.where(joint, rng.uniform(0, 1), shade)


def _windows(size: tuple[int, int], rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    h, w = size
    y, x = np.mgrid[:h, :w] / np.array([h / rows, w / columns])[:, None, None]
    low, high = rng.uniform(0.1, 0.3, 2), rng.uniform(0.6, 0.9, 2)
    pane = (y % 1 > low[0]) & (y % 1 < high[0]) & (x % 1 > low[1]) & (x % 1 < high[1])
    shade = rng.uniform(0.05, 0.45, (rows, columns))[y.astype(int), x.astype(int)]
    return np.where(pane, shade, rng.uniform(0.6, 0.95))


def _checks(size: tuple[int, int], rows: int, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]] * (rows / size[0])
    odd = (np.floor(x) + np.floor(y)) % 2 if rng.random() < 0.5 else np.floor(y) % 2
    return 0.25 + 0.5 * odd


def _speckle(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw what asphalt, sand and carpets are like."""
    fine = cv2.GaussianBlur(rng.random(size).astype(np.float32), (0, 0), rng.uniform(0.6, 1.5))
    return 0.5 + (fine - 0.5) * 1.5 + (_noise(size, 8, 0.7, rng) - 0.5) * 0.5


@cache
def patterns(size: tuple[int, int]) -> np.ndarray:
    """Return grey textures, uint8 (N, h, w, 3): noise and speckle first, then what repeats."""
    rng = np.random.default_rng(7)
    made = [_noise(size, 2, slope, rng) for slope in (0.5, 0.6, 0.7, 0.85)]
    made += [_speckle(size, rng) for _ in range(4)]
    made += [_bricks(size, rows, columns, rng) for rows, columns in ((16, 8), (24, 18), (10, 10))]
    made += [_windows(size, rows, columns, rng) for rows, columns in ((6, 8), (8, 6), (5, 14))]
    made += [_checks(size, rows, rng) for rows in (8, 16, 20)]
    made = [(x + (_noise(size, 2, 0.7, rng) - 0.5) * 0.15).clip(0, 1) for x in made]
    return np.repeat((np.stack(made) * 255).astype(np.uint8)[..., None], 3, -1)


@cache
def holes() -> np.ndarray:
    """Return patterns of what is there, uint8 (N, s, s): LEAVES of leaves, then fences and grilles."""
    side = MASK_SIDE
    rng = np.random.default_rng(11)
    y, x = np.mgrid[:side, :side] / side
    leaves = [_leaves(n, long, rng) for n, long in ((130, 9), (55, 15), (330, 6))]
    mesh = (np.abs((x + y) * 8 % 1 - 0.5) < 0.12) | (np.abs((x - y) * 8 % 1 - 0.5) < 0.12)
    bars = (np.abs(x * 8 % 1 - 0.5) < 0.14) | (np.abs(y * 2 % 1 - 0.5) < 0.06)
    slats = np.abs(y * 8 % 1 - 0.5) < 0.3
    discs = np.hypot(x * 6 % 1 - 0.5, y * 6 % 1 - 0.5) > 0.36
    square = (np.abs(x * 6 % 1 - 0.5) < 0.08) | (np.abs(y * 6 % 1 - 0.5) < 0.08)
    hard = [
        cv2.GaussianBlur((m * 255.0).astype(np.float32), (0, 0), 0.8)
        for m in (mesh, bars, slats, discs, square)
    ]
    return np.stack([*leaves, *hard]).astype(np.uint8)


def _leaves(number: int, length: int, rng: np.random.Generator) -> np.ndarray:
    img = np.zeros((MASK_SIDE, MASK_SIDE), np.uint8)
    for _ in range(number):
        at = rng.integers(0, MASK_SIDE, 2)
        long = int(length * rng.uniform(0.6, 1.2))
        axes, turn = (long, max(int(long * rng.uniform(0.25, 0.5)), 1)), float(rng.uniform(0, 180))
        for dx in (-MASK_SIDE, 0, MASK_SIDE):
            for dy in (-MASK_SIDE, 0, MASK_SIDE):
                middle = (int(at[0] + dx), int(at[1] + dy))
                cv2.ellipse(img, middle, axes, turn, 0, 360, 255, -1)
    return cv2.GaussianBlur(img, (0, 0), 1.0).astype(np.float32)
