"""What all random worlds are made with: colours, materials, speeds, cameras, light and weather."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mcjepa.config import RenderConfig
from mcjepa.data.rendered import meshes, things
from mcjepa.data.rendered.gl import Effects, Light
from mcjepa.data.rendered.motion import Camera, Frame, rotation
from mcjepa.data.rendered.scene import Material, Part, Scene
from mcjepa.data.rendered.textures import PATTERNS, REPEATED
from mcjepa.data.rendered.things import vector

TEXELS = 480.0  # in a width of a texture
SKY = 300.0  # metres to the sky
PACE = 0.1  # of what moves: its distance in a unit of time


class World:
    """What all kinds of scenes are made with."""

    def __init__(self, photos: int, width: int, config: RenderConfig, rng: np.random.Generator) -> None:
        self.photos, self.width, self.config, self.rng = photos, width, config, rng
        self.parts: list[Part] = []
        self.focal = float(np.exp(rng.uniform(math.log(0.5), math.log(1.6))))
        self.palette = rng.random(3)
        self.used: set[str] = set()

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def scaled(self, low: float, high: float) -> float:
        """Draw log-uniformly."""
        return float(np.exp(self.rng.uniform(math.log(low), math.log(high))))

    def colour(self, brightness: float, vivid: float = 0.6) -> tuple[float, float, float]:
        hue = self.palette[self.rng.integers(3)] + self.rng.normal() * 0.06
        return colorsys.hsv_to_rgb(hue % 1, self.rng.random() ** 2 * vivid, brightness)

    def painter(self, distance: float) -> things.Paint:
        """Return what makes materials whose detail is natural at a distance in metres."""

        def paint(
            hole: int = -1,
            hole_size: float = 1.0,
            gloss: float = 0.0,
            dark: bool = False,
            smooth: bool = False,
            **more: Any,
        ) -> Material:
            rng = self.rng
            brightness = self.scaled(0.03, 0.2) if dark else self.scaled(0.12, 0.8)
            pattern = self.chance(0.2 if hole >= 0 else 0.35)
            kinds = PATTERNS if self.config.repeated else REPEATED
            texture = int(rng.integers(kinds if pattern else self.photos))
            contrast = self.between(0.5, 1.0)
            if self.config.textureless and self.chance(0.6 if dark or smooth else 0.15):
                contrast = self.between(0.0, 0.25)
            glossy = max(gloss * rng.random(), 0.8 * rng.random() * self.chance(0.2))
            if pattern:
                tint = self.colour(min(2.5 * brightness, 1.2))
            else:
                tint = self.colour(self.scaled(0.15, 0.5) if dark else self.scaled(0.5, 1.8), 0.3)
            values = dict(
                texture=texture,
                pattern=pattern,
                density=self.focal * self.width / max(distance, 0.3) / TEXELS * self.scaled(0.4, 1.5),
                hole=hole if self.config.thin else -1,
                hole_density=1.0 / hole_size,
                plain=self.colour(brightness),
                tint=tint,
                contrast=contrast,
                detail=self.between(0.0, 0.6),
                gloss=glossy if self.config.highlights else 0.0,
                offset=self.between(0, 2),
            )
            return Material(**{**values, **more})

        return paint

    def speed(self, distance: float, still: float = 0.4, most: float = 2.0) -> np.ndarray:
        """Draw a velocity for something at a distance; at rest with probability `still`."""
        if self.chance(still):
            return np.zeros(3)
        way = self.rng.normal(size=3)
        return way / np.linalg.norm(way) * PACE * distance * most * self.rng.random() ** 1.5

    def spin(self, most: float, still: float = 0.4) -> np.ndarray:
        """Draw radians in a unit of time."""
        return self.rng.normal(size=3) * most * self.rng.random() ** 2 * (not self.chance(still))

    def camera(self, place: np.ndarray, turn: np.ndarray, velocity: np.ndarray, shake: float = 1.0) -> Camera:
        """Make a camera; it turns and zooms besides moving, and shakes by `shake`."""
        view = PACE / self.focal
        spin = self.rng.normal(size=3) * (0.35, 0.5, 0.25) * shake * view * 2 * self.rng.random() ** 2
        zoom = self.rng.normal() * PACE * 0.7 * self.chance(0.15)
        middle = 0.5 + self.rng.normal(size=2) * 0.06
        return Camera(
            Frame(place, velocity, turn, spin), self.focal, zoom, (float(middle[0]), float(middle[1]))
        )

    def in_view(self, camera: Camera, depth: float, margin: float = 0.1) -> np.ndarray:
        """Draw a place (3,) that the camera sees at a depth at time 0, or a little outside its image."""
        x, y = self.rng.uniform(-0.5 - margin, 0.5 + margin, 2) * (1, 0.7)
        turn, place = camera.frame.at(0.0)
        return place + turn @ (vector(x / self.focal, y / self.focal, 1.0) * depth)

    def sky(self, camera: Camera) -> None:
        pattern = self.chance(0.5)
        glow = Material(
            texture=int(self.rng.integers(4 if pattern else self.photos)),
            pattern=pattern,
            density=self.scaled(0.25, 0.8) / SKY,
            plain=self.colour(self.between(0.3, 0.9), 0.5),
            tint=self.colour(self.between(0.7, 1.3), 0.3),
            contrast=self.between(0.0, 1.0),
            detail=0.1,
            glow=1.0,
        )
        frame = Frame(camera.frame.place, camera.frame.velocity)
        self.parts.append(Part(meshes.ellipsoid((SKY, SKY, SKY), 8), glow, frame))

    def thing(self, frame: Frame, distance: float, size: float) -> None:
        """Add something of a random kind."""
        rng, paint = self.rng, self.painter(distance)
        swing = PACE * 10 * self.scaled(0.3, 2.0)
        kind = rng.random()
        if self.config.bodies and kind < 0.35:
            make = things.person if self.chance(0.6) else things.animal
            self.parts += make(frame, paint, rng, size, swing)
        elif self.config.thin and kind < 0.6:
            which = rng.integers(4)
            if which == 0:
                self.parts += things.tree(frame, paint, rng, size)
            elif which == 1:
                self.parts += things.fence(frame, paint, rng, size * self.between(0.7, 2.0), size)
            elif which == 2:
                self.parts += things.sign(frame, paint, rng, size)
            else:
                self.parts += things.chair(frame, paint, rng, size)
        else:
            self.parts += things.solid(frame, paint, rng, size)

    def scene(self, camera: Camera, outdoors: bool, radius: float, depth: float) -> Scene:
        """Finish: light, weather and lens. `depth` is a usual distance in metres."""
        config, rng = self.config, self.rng
        light = self.light(camera, outdoors, depth)
        fog = self.chance(0.35 if outdoors else 0.1) and config.fog
        haze = (
            np.array(self.colour(self.between(0.2, 0.8), 0.4))
            * light(0.0).sky
            / max(light(0.0).sky.max(), 0.3)
        )
        effects = Effects(
            shadows=config.shadows and self.chance(0.7),
            gloss=any(p.material.gloss > 0 for p in self.parts),
            water=any(p.material.water > 0 for p in self.parts),
            haze=haze,
            density=self.scaled(0.2, 1.4) / (2.5 * depth) if fog else (0.02 / depth if outdoors else 0.0),
            mirrored=int(rng.integers(self.photos)),
            exposure=self.between(0.1, 0.7) if config.motion_blur and self.chance(0.3) else 0.0,
            focus=1 / (depth * self.scaled(0.4, 2.0)),
            aperture=depth * self.scaled(0.5, 6.0) if config.focus_blur and self.chance(0.2) else 0.0,
        )
        return Scene(camera, light, effects, radius, self.parts)

    def light(self, camera: Camera, outdoors: bool, depth: float) -> Callable[[float], Light]:
        rng = self.rng
        night = self.chance(0.12)
        high, round_ = self.between(0.2, 1.4), self.between(0, 6.3)
        sun = vector(math.cos(high) * math.cos(round_), -math.sin(high), math.cos(high) * math.sin(round_))
        share = self.between(0.25, 0.8) * (1.0 if outdoors else 0.7)
        total = self.scaled(1.2, 3.0) * (0.2 if night else 1.0)
        warm = np.array(self.colour(1.0, 0.3)) * (1.1, 1.0, 0.9)
        cool = np.array(self.colour(1.0, 0.3)) * (0.9, 1.0, 1.1)
        ground = cool * self.between(0.2, 0.8)
        lamp = camera.frame.place + rng.normal(size=3) * depth * 0.3 - vector(0, 0.2 * depth, 0)
        power = self.scaled(0.3, 3.0) * (night or self.chance(0.2))
        changing = self.config.light_changes and self.chance(0.5)
        turn, step = rng.normal(size=3) * 0.06 * changing, rng.normal(size=3) * 0.06 * depth * changing
        fade = np.exp(rng.normal(size=2) * 0.25 * changing)

        def at(moment: float) -> Light:
            return Light(
                sun=rotation(turn * moment) @ sun,
                sunlight=warm * total * share * fade[0] ** moment,
                sky=cool * total * (1 - share),
                ground=ground * total * (1 - share),
                lamp=lamp + step * moment,
                lamplight=np.array([1.0, 0.9, 0.75]) * power * depth * fade[1] ** moment,
            )

        return at

    def flying(self, camera: Camera, depth: float, number: int) -> None:
        """Add things that move freely before the camera."""
        for _ in range(number):
            distance = depth * self.scaled(0.4, 1.5)
            frame = Frame(
                self.in_view(camera, distance),
                self.speed(distance, 0.1, 3.0),
                self.rng.uniform(0, 6.3, 3),
                self.spin(0.5),
            )
            self.thing(frame, distance, distance / self.focal * self.scaled(0.05, 0.5))
