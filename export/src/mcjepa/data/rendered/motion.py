"""Motions as functions of time: rigid frames with parents, and a camera."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

Placed = tuple[np.ndarray, np.ndarray]  # a rotation (3, 3) and a place (3,)
MOST_TURN = 1.0  # radians about an axis between the frames; more could not be followed
NEAR, FAR = 0.05, 600.0  # metres that a camera sees


def rotation(vector: np.ndarray) -> np.ndarray:
    """Turn about an axis by its length in radians: (3,) -> (3, 3)."""
    x, y, z = (float(v) for v in vector)
    angle = math.sqrt(x * x + y * y + z * z)
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = x / angle, y / angle, z / angle
    s, c = math.sin(angle), math.cos(angle)
    u = 1 - c
    return np.array(
        [
            [c + x * x * u, x * y * u - z * s, x * z * u + y * s],
            [y * x * u + z * s, c + y * y * u, y * z * u - x * s],
            [z * x * u - y * s, z * y * u + x * s, c + z * z * u],
        ]
    )


def zeros() -> np.ndarray:
    return np.zeros(3)


@dataclass(frozen=True, eq=False)
class Frame:
    """A rigid frame at place + time * velocity, turned by `turn` and by time * spin, in that of a parent.

    place, velocity, turn and spin are (3,); rotations are given as axis times radians. It turns no further
    than MOST_TURN.
    """

    place: np.ndarray = field(default_factory=zeros)
    velocity: np.ndarray = field(default_factory=zeros)
    turn: np.ndarray = field(default_factory=zeros)
    spin: np.ndarray = field(default_factory=zeros)
    parent: Frame | None = None

    @cached_property
    def start(self) -> np.ndarray:
        return rotation(self.turn)

    def at(self, time: float, known: dict[Frame, Placed] | None = None) -> Placed:
        """Return the rotation (3, 3) and the place (3,) in the world; `known` keeps those of this time."""
        known = {} if known is None else known
        if self not in known:
            angle = self.spin * time
            most = MOST_TURN / max(float(np.abs(angle).max()), MOST_TURN)
            turn = rotation(angle * most) @ self.start
            place = self.place + self.velocity * time
            if self.parent is not None:
                above, origin = self.parent.at(time, known)
                turn, place = above @ turn, above @ place + origin
            known[self] = turn, place
        return known[self]


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
