"""Motions as functions of time: rigid frames with parents, and a camera."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

NEAR, FAR = 0.05, 600.0  # metres that a camera sees


def rotation(vector: np.ndarray) -> np.ndarray:
    """Turn about an axis by its length in radians: (3,) -> (3, 3)."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = np.asarray(vector) / angle
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * k + (1 - math.cos(angle)) * k @ k


def zeros() -> np.ndarray:
    return np.zeros(3)


@dataclass(frozen=True, eq=False)
class Frame:
    """A rigid frame at place + time * velocity, turned by `turn` and by time * spin, in that of a parent.

    place, velocity, turn and spin are (3,); rotations are given as axis times radians.
    """

    place: np.ndarray = field(default_factory=zeros)
    velocity: np.ndarray = field(default_factory=zeros)
    turn: np.ndarray = field(default_factory=zeros)
    spin: np.ndarray = field(default_factory=zeros)
    parent: Frame | None = None

    def at(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the rotation (3, 3) and the place (3,) in the world."""
        turn = rotation(self.spin * time) @ rotation(self.turn)
        place = self.place + self.velocity * time
        if self.parent is None:
            return turn, place
        above, origin = self.parent.at(time)
        return above @ turn, above @ place + origin


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera that looks along z of its frame, x to the right and y down.

    focal: in widths of the image; zoom: its logarithm's growth in a unit of time; centre: (2,) where the
    axis meets the image, from (0, 0), its upper left corner, to (1, 1).
    """

    frame: Frame
    focal: float = 1.0
    zoom: float = 0.0
    centre: tuple[float, float] = (0.5, 0.5)

    def matrix(self, time: float, size: tuple[int, int]) -> np.ndarray:
        """Return the matrix (4, 4) from the world to clip coordinates; GL's first row is the uppermost.

        A point that is seen at pixel (x, y), centres at whole numbers, has the device coordinates
        (2 (x + 1/2) / W - 1, 2 (y + 1/2) / H - 1); w is the distance along the axis.
        """
        turn, place = self.frame.at(time)
        world = np.eye(4)
        world[:3, :3], world[:3, 3] = turn.T, -turn.T @ place
        h, w = size
        focal = self.focal * math.exp(self.zoom * time)
        lens = np.array(
            [
                [2 * focal, 0, 2 * self.centre[0] - 1, 0],
                [0, 2 * focal * w / h, 2 * self.centre[1] - 1, 0],
                [0, 0, (FAR + NEAR) / (FAR - NEAR), -2 * FAR * NEAR / (FAR - NEAR)],
                [0, 0, 1, 0],
            ]
        )
        return lens @ world
