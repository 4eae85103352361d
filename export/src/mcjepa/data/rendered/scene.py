"""A scene: parts in motion, each a mesh of one material, and how they come to the renderer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from mcjepa.data.rendered.gl import Effects, Geometry, Light, Look
from mcjepa.data.rendered.meshes import Mesh
from mcjepa.data.rendered.motion import Camera, Frame, Placed


@dataclass(frozen=True, eq=False)
class Material:
    """How a surface looks; colours are of linear light, 0 .. 1.

    texture: number of a photo, or of a pattern; density: repeats of the texture a metre; hole: number of a
    pattern of holes, -1 for none, and its repeats a metre; texture's share `contrast` of the colour, `detail`
    of it once more five times as fine; gloss, water and glow, 0 .. 1.
    """

    texture: int
    pattern: bool
    density: float
    hole: int = -1
    hole_density: float = 1.0
    plain: tuple[float, float, float] = (0.5, 0.5, 0.5)
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    contrast: float = 1.0
    detail: float = 0.3
    gloss: float = 0.0
    water: float = 0.0
    glow: float = 0.0
    offset: float = 0.0

    @property
    def group(self) -> int:
        """Place in the order in which the renderer draws."""
        return 2 * self.pattern + (self.hole >= 0)

    def texels(self) -> np.ndarray:
        """Return what `shaders.SURFACE_VERTEX` reads: (4, 4)."""
        return np.array(
            [
                [self.texture, self.density, self.hole, self.hole_density],
                [*self.plain, self.offset],
                [*self.tint, self.contrast],
                [self.glow, self.gloss, self.water, self.detail],
            ]
        )


@dataclass(frozen=True, eq=False)
class Part:
    """A mesh in a frame; `bend` moves its points (V, 3) within the frame with time."""

    mesh: Mesh
    material: Material
    frame: Frame
    bend: Callable[[np.ndarray, float], np.ndarray] | None = None

    def at(self, time: float, known: dict[Frame, Placed]) -> tuple[np.ndarray, np.ndarray]:
        """Return points and normals in the world, each (V, 3); `known` holds frames at this time."""
        turn, place = self.frame.at(time, known)
        points = self.mesh.points if self.bend is None else self.bend(self.mesh.points, time)
        return points @ turn.T + place, self.mesh.normals @ turn.T


@dataclass(eq=False)
class Scene:
    """Parts, a camera, the light at a time, and effects; `radius` (m) is how far around it shadows fall."""

    camera: Camera
    light: Callable[[float], Light]
    effects: Effects
    radius: float
    parts: list[Part] = field(default_factory=list)

    def geometry(self) -> Geometry:
        """Bring the parts in order, and return what stays the same."""
        self.parts.sort(key=lambda part: part.material.group)
        meshes = [part.mesh for part in self.parts]
        starts = np.cumsum([0] + [len(m.points) for m in meshes])
        faces = [m.faces + start for m, start in zip(meshes, starts[:-1], strict=True)]
        materials = list({id(part.material): part.material for part in self.parts}.values())
        numbers = {id(m): i for i, m in enumerate(materials)}
        return Geometry(
            uv=np.concatenate([m.uv for m in meshes]),
            material=np.repeat([numbers[id(part.material)] for part in self.parts], np.diff(starts)),
            faces=np.concatenate(faces),
            counts=tuple(
                sum(len(part.mesh.faces) for part in self.parts if part.material.group == i) for i in range(4)
            ),
            materials=np.stack([m.texels() for m in materials]),
        )

    def at(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Return points and normals of all parts, each (V, 3)."""
        known: dict[Frame, Placed] = {}
        both = [part.at(time, known) for part in self.parts]
        return np.concatenate([b[0] for b in both]), np.concatenate([b[1] for b in both])

    def look(self, time: float, moment: float, size: tuple[int, int]) -> Look:
        """Return how a frame of `size` (H, W) is seen; `moment`, 0 or 1, is the frame's for the light."""
        turn, eye = self.camera.frame.at(time)
        light = self.light(moment)
        middle = eye + turn[:, 2] * self.radius * 0.8
        return Look(self.camera.matrix(time, size), shade(light.sun, middle, self.radius), eye, light, moment)


def shade(sun: np.ndarray, middle: np.ndarray, radius: float) -> np.ndarray:
    """Return the matrix (4, 4) of a parallel light to texture coordinates of its map, 0 .. 1."""
    side = np.cross(sun, np.eye(3)[np.argmin(np.abs(sun))])
    side /= np.linalg.norm(side)
    axes = np.stack([side, np.cross(sun, side), -sun])
    matrix = np.eye(4)
    matrix[:3, :3] = axes / np.array([radius, radius, 4 * radius])[:, None]
    matrix[:3, 3] = -matrix[:3, :3] @ middle
    return matrix
