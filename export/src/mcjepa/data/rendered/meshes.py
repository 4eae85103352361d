"""Triangle meshes in metres, with outward normals and texture coordinates in metres along the surface.

y points down and z ahead, as in a camera; a mesh that stands on the ground has its foot at y = 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

SIDES = 10  # of what is round across


@dataclass(frozen=True)
class Mesh:
    """points, normals: float (V, 3); uv: float (V, 2); faces: int (F, 3) indices of points."""

    points: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    faces: np.ndarray

    def moved(self, turn: np.ndarray, shift: np.ndarray) -> Mesh:
        """Turn by a rotation (3, 3), then shift by (3,)."""
        return Mesh(self.points @ turn.T + shift, self.normals @ turn.T, self.uv, self.faces)


def merge(meshes: list[Mesh]) -> Mesh:
    """Make one mesh of several."""
    starts = np.cumsum([0] + [len(m.points) for m in meshes[:-1]])
    return Mesh(
        np.concatenate([m.points for m in meshes]),
        np.concatenate([m.normals for m in meshes]),
        np.concatenate([m.uv for m in meshes]),
        np.concatenate([m.faces + s for m, s in zip(meshes, starts, strict=True)]),
    )


def grid_mesh(points: np.ndarray, uv: np.ndarray, inside: np.ndarray | None = None) -> Mesh:
    """Join a grid of points (R, C, 3) by triangles; normals follow from it and point away from `inside`."""
    along, across = np.gradient(points, axis=1), np.gradient(points, axis=0)
    normals = _unit(np.cross(along, across))
    if inside is not None:
        normals *= np.where(((points - inside) * normals).sum(-1, keepdims=True) < 0, -1.0, 1.0)
    return Mesh(
        points.reshape(-1, 3), normals.reshape(-1, 3), uv.reshape(-1, 2), _grid_faces(*points.shape[:2])
    )


def plane(size: tuple[float, float], cells: int = 8) -> Mesh:
    """Lay a flat rectangle about the origin, (x, z) metres, facing up."""
    x, z = (np.linspace(-s / 2, s / 2, cells + 1) for s in size)
    return terrain(x, z, np.zeros((len(z), len(x))))


def terrain(x: np.ndarray, z: np.ndarray, height: np.ndarray) -> Mesh:
    """Lay a ground over the lines x (C,) and z (R,), with heights (R, C) above y = 0."""
    xx, zz = np.meshgrid(x, z)
    points = np.stack([xx, -height, zz], -1)
    return grid_mesh(points, np.stack([xx, zz], -1), points.mean((0, 1)) + np.array([0, 1e4, 0]))


def card(width: float, height: float) -> Mesh:
    """Put up a flat upright rectangle facing -z, its foot in the middle of the lower edge."""
    corners = np.array([[-0.5, -1], [0.5, -1], [-0.5, 0], [0.5, 0]]) * (width, height)
    points = np.concatenate([corners, np.zeros((4, 1))], 1)
    return Mesh(points, np.tile([0.0, 0.0, -1.0], (4, 1)), corners, np.array([[0, 1, 2], [1, 3, 2]]))


def box(width: float, height: float, depth: float) -> Mesh:
    """Build a box that stands on y = 0, in the middle of it."""
    faces = []
    for axis in range(3):
        for side in (-1.0, 1.0):
            a, b = [i for i in range(3) if i != axis]
            points = np.empty((4, 3))
            points[:, axis] = side
            points[:, a], points[:, b] = [-1, 1, -1, 1], [-1, -1, 1, 1]
            points = points * (width / 2, height / 2, depth / 2) - (0, height / 2, 0)
            normals = np.zeros((4, 3))
            normals[:, axis] = side
            uv = points[:, [2, 1]] if axis == 0 else points[:, [0, 2]] if axis == 1 else points[:, [0, 1]]
            faces.append(Mesh(points, normals, uv + axis, np.array([[0, 1, 2], [1, 3, 2]])))
    return merge(faces)


@cache
def _cube_sphere(cells: int) -> Mesh:
    ticks = np.tan(np.linspace(-math.pi / 4, math.pi / 4, cells + 1))
    u, v = np.meshgrid(ticks, ticks)
    sides = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            points = np.roll(np.stack([np.full_like(u, sign), u, v], -1), axis, -1)
            points = _unit(points)
            uv = np.arctan(np.stack([u, v], -1))
            sides.append(
                Mesh(points.reshape(-1, 3), points.reshape(-1, 3), uv.reshape(-1, 2), _grid_faces(*u.shape))
            )
    return merge(sides)


def ellipsoid(radii: tuple[float, float, float], cells: int = 6) -> Mesh:
    """Build an ellipsoid about the origin."""
    ball = _cube_sphere(cells)
    return Mesh(ball.points * radii, _unit(ball.normals / radii), ball.uv * float(np.mean(radii)), ball.faces)


def rock(
    radii: tuple[float, float, float], roughness: float, rng: np.random.Generator, cells: int = 7
) -> Mesh:
    """Build an ellipsoid with waves of random directions, up to about `roughness` of its radii."""
    ball = _cube_sphere(cells)
    ways = rng.normal(size=(6, 3)) * rng.uniform(1.0, 4.0, (6, 1))
    waves = np.sin(ball.points @ ways.T + rng.uniform(0, 6.3, 6)) / np.linalg.norm(ways, axis=1)
    points = ball.points * (1 + roughness * waves.sum(1, keepdims=True)) * radii
    mesh = Mesh(points, points, ball.uv * float(np.mean(radii)), ball.faces)
    return _with_normals(mesh, _same_points(cells))


@cache
def _same_points(cells: int) -> np.ndarray:
    """Number the points of a ball so that those at the same place have the same number."""
    return np.unique(_cube_sphere(cells).points.round(5), axis=0, return_inverse=True)[1].reshape(-1)


def _with_normals(mesh: Mesh, same: np.ndarray) -> Mesh:
    """Take the normals anew from the triangles; points that are the same share theirs."""
    corners = mesh.points[mesh.faces]
    normal = _cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal *= np.where((normal * mesh.points[mesh.faces].mean(1)).sum(1, keepdims=True) < 0, -1, 1)
    sums = np.zeros_like(mesh.points)
    for i in range(3):
        for c in range(3):
            sums[:, c] += np.bincount(same[mesh.faces[:, i]], normal[:, c], len(sums))
    return Mesh(mesh.points, _unit(sums[same]), mesh.uv, mesh.faces)


def sweep(path: np.ndarray, radii: np.ndarray, sides: int = SIDES) -> Mesh:
    """Build a tube about the points of a path (K, 3) with radii (K,); a radius of 0 closes an end."""
    ahead = _unit(_steps(path))
    mean = _unit(ahead.mean(0) + 1e-9)
    other = np.eye(3)[np.argmin(np.abs(mean))]
    right = _unit(_cross(ahead, other))
    up = _cross(right, ahead)
    angle = np.linspace(0, 2 * math.pi, sides + 1)
    ring = np.cos(angle)[:, None] * right[:, None] + np.sin(angle)[:, None] * up[:, None]  # (K, sides + 1, 3)
    points = path[:, None] + ring * radii[:, None, None]
    run = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    slope = np.clip(_steps(radii) / np.maximum(_steps(run), 1e-6), -5, 5)
    normals = _unit(ring - slope[:, None, None] * ahead[:, None])
    girth = np.broadcast_to(angle * float(radii.mean()), points.shape[:2])
    uv = np.stack([girth, np.broadcast_to(run[:, None], girth.shape)], -1)
    return Mesh(
        points.reshape(-1, 3), normals.reshape(-1, 3), uv.reshape(-1, 2), _grid_faces(*points.shape[:2])
    )


def capsule(length: float, start: float, end: float) -> Mesh:
    """Build a limb from the origin downwards, `start` and `end` thick, round at both ends."""
    t = np.array([-1, -0.7, 0, 0.5, 1, 1.7, 2])  # rounds below 0 and above 1
    inner = t.clip(0, 1)
    radius = start + (end - start) * inner
    y = inner * length + np.where(t < 0, t * start, np.where(t > 1, (t - 1) * end, 0))
    radius = radius * np.sqrt(1 - np.where(t < 0, t, np.where(t > 1, t - 1, 0)) ** 2)
    path = np.stack([np.zeros(7), y, np.zeros(7)], 1)
    return sweep(path, radius, 8)


def pole(height: float, radius: float, sides: int = 6) -> Mesh:
    """Build an upright cylinder from the ground."""
    path = np.array([[0, 0, 0], [0, -height / 2, 0], [0, -height, 0]], float)
    return sweep(path, np.array([radius, radius, radius]), sides)


def ring(radius: float, thickness: float) -> Mesh:
    """Build a torus about the z axis, in the x-y plane."""
    a, b = np.linspace(0, 2 * math.pi, 25)[:, None], np.linspace(0, 2 * math.pi, SIDES + 1)[None]
    out = radius + thickness * np.cos(b) + 0 * a  # (25, SIDES + 1)
    lift = np.broadcast_to(thickness * np.sin(b), out.shape)
    points = np.stack([out * np.cos(a), out * np.sin(a), lift], -1)
    middle = radius * np.stack([np.cos(a), np.sin(a), 0 * a], -1)  # (25, 1, 3)
    uv = np.stack([np.broadcast_to(a * radius, out.shape), np.broadcast_to(b * thickness, out.shape)], -1)
    return grid_mesh(points, uv, middle)


def lathe(height: float, radius: float, rng: np.random.Generator) -> Mesh:
    """Turn a random outline about the upright axis: vases, bottles, lamps."""
    t = np.linspace(0, 1, 12)
    k = np.array([[1], [2], [3]])
    waves = rng.uniform(-0.3, 0.3, 3) @ np.sin(math.pi * k * t + rng.uniform(0, 6.3, (3, 1)))
    outline = radius * (0.6 + waves).clip(0.15, 1.2)
    outline[[0, -1]] *= 0.02
    path = np.stack([0 * t, -height * t, 0 * t], 1)
    return sweep(path, outline, 14)


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    i = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).reshape(-1)
    return np.concatenate(
        [np.stack([i, i + 1, i + columns], 1), np.stack([i + 1, i + columns + 1, i + columns], 1)]
    )


def _steps(values: np.ndarray) -> np.ndarray:
    """Return the differences along the first axis, as np.gradient with less around it."""
    between = values[1:] - values[:-1]
    return np.concatenate([between[:1], (between[1:] + between[:-1]) / 2, between[-1:]])


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cross product of (..., 3), as np.cross with less around it."""
    (ax, ay, az), (bx, by, bz) = np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0)
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], -1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.sqrt(np.maximum((vectors * vectors).sum(-1, keepdims=True), 1e-24))
