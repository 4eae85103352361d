"""Random scenes of five kinds, each with a camera that moves in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mcjepa.config import RenderConfig
from mcjepa.data.rendered import meshes, things
from mcjepa.data.rendered.motion import Frame, rotation
from mcjepa.data.rendered.scene import Part, Scene
from mcjepa.data.rendered.things import vector
from mcjepa.data.rendered.world import World


def random_world(photos: int, width: int, config: RenderConfig, rng: np.random.Generator) -> Scene:
    """Make a scene seen `width` px wide, whose surfaces show some of `photos` photos.

    Motions are about a tenth of the distance in a unit of time.
    """
    kinds = (_street, _street, _land, _room, _stage, _floating)
    return kinds[rng.integers(len(kinds))](World(photos, width, config, rng))


def _street(w: World) -> Scene:
    """Drive between two rows of houses."""
    rng = w.rng
    w.focal = w.scaled(0.45, 1.2)
    height, half = w.between(1.2, 2.4), w.between(3.5, 9.0)
    ahead = 1.0 if w.chance(0.85) else -0.6
    velocity = vector(rng.normal() * 0.1, 0, ahead * w.between(0.0, 1.0) ** 0.5) * w.between(0.3, 1.2)
    turn = rng.normal(size=3) * (0.06, 0.25, 0.03)
    camera = w.camera(vector(w.between(-0.5, 0.5) * half, -height, 0), turn, velocity, 0.7)
    near, far = w.painter(8.0), w.painter(18.0)
    ground = meshes.plane((240, 300), 12)
    w.parts.append(Part(ground, near(), Frame(vector(0, 0, 100))))
    if w.chance(0.8):
        road = meshes.plane((2 * half * 0.7, 300), 12)
        w.parts.append(Part(road, near(detail=0.5), Frame(vector(0, -0.02, 100))))
        line = near(contrast=0.3, plain=(0.8, 0.8, 0.75))
        gap = w.between(3, 9)
        for z in np.arange(2, 60, gap):
            for x in (0.0, half * 0.65) if w.chance(0.6) else (0.0,):
                w.parts.append(Part(meshes.plane((0.15, gap * 0.5), 1), line, Frame(vector(x, -0.04, z))))
    if w.chance(0.6):
        kerb = far()
        for side in (-1, 1):
            mesh = meshes.box(0.5 * half, 0.15, 300)
            w.parts.append(Part(mesh, kerb, Frame(vector(side * (half + 0.25 * half), 0, 100))))
    for side in (-1, 1):
        _houses(w, side, half, far)
        for z in np.arange(w.between(3, 8), 70, w.scaled(4, 25)):
            frame = Frame(
                vector(side * half * w.between(0.85, 1.15), 0, z + rng.normal()),
                turn=vector(0, rng.normal() * 0.2, 0),
            )
            which = rng.random()
            if which < 0.35:
                w.parts += things.car(frame, w.painter(max(z, 5)), rng)
            elif which < 0.6 and w.config.thin:
                w.parts += things.sign(frame, far, rng, w.between(2.5, 7))
            elif which < 0.8:
                w.parts += things.tree(frame, far, rng, w.between(2, 8))
            elif which < 0.9 and w.config.thin:
                facing = Frame(frame.place, turn=vector(0, math.pi / 2, 0))
                w.parts += things.fence(facing, far, rng, w.between(4, 12), w.between(0.8, 2))
            elif w.config.bodies:
                walking = Frame(
                    frame.place, vector(*(rng.normal(size=3) * (0.3, 0, 0.5))), vector(0, w.between(0, 6), 0)
                )
                w.parts += things.person(walking, w.painter(max(z, 5)), rng, w.between(1.5, 2), 0.5)
    for _ in range(rng.integers(0, 5)):
        z = w.scaled(6, 40)
        way = 1 if w.chance(0.5) else -1
        heading = vector(0, 0 if w.chance(0.75) else math.pi / 2, 0)
        moving = rotation(heading) @ vector(0, 0, way * w.between(0, 2.0))
        frame = Frame(
            vector(w.between(-0.7, 0.7) * half, 0, z), moving, heading, vector(0, w.spin(0.1)[1], 0)
        )
        w.parts += things.car(frame, w.painter(z), rng)
    if w.config.thin and w.chance(0.4):
        w.parts += things.wires(Frame(vector(0, -w.between(4, 7), w.between(8, 30))), far, rng, 3 * half)
    w.sky(camera)
    return w.scene(camera, True, 30.0, 10.0)


def _houses(w: World, side: int, half: float, paint: things.Paint) -> None:
    """Add a row of houses, walls or nothing along the road."""
    if w.chance(0.12):
        return
    back, z = half * w.between(1.5, 3.0), -6.0
    while z < 110:
        long, high, deep = w.scaled(5, 30), w.scaled(2.5, 18), w.between(4, 12)
        if w.chance(0.85):
            place = vector(side * (back + deep / 2 + w.between(0, 2)), 0, z + long / 2)
            house = paint(density=w.scaled(0.06, 0.25))
            w.parts.append(Part(meshes.box(deep, high, long), house, Frame(place)))
        z += long + (w.between(0, 6) if w.chance(0.4) else 0)


def _heights(w: World, x: np.ndarray, z: np.ndarray, rough: float) -> Callable[[Any, Any], Any]:
    ways = w.rng.normal(size=(8, 2)) * np.geomspace(0.02, 0.4, 8)[:, None]
    phases, sizes = w.rng.uniform(0, 6.3, 8), rough / np.geomspace(1, 12, 8)

    def height(px: Any, pz: Any) -> Any:
        return sum(s * np.sin(a * px + b * pz + p) for (a, b), p, s in zip(ways, phases, sizes, strict=True))

    return height


def _land(w: World) -> Scene:
    """Fly over hills, water, woods and stones."""
    rng = w.rng
    lines = np.concatenate([-np.geomspace(60, 1, 14), np.linspace(-0.8, 0.8, 5), np.geomspace(1, 150, 34)])
    height = _heights(w, lines, lines, w.scaled(0.3, 6.0))
    x, z = lines.clip(-120, 120), lines
    xx, zz = np.meshgrid(x, z)
    above = w.scaled(0.8, 15.0)
    top = float(height(0.0, 0.0)) + above
    pitch = -math.atan2(above, w.scaled(8, 40)) * w.between(0.2, 1.6)
    turn = vector(pitch, 0, rng.normal() * 0.12)
    depth = max(above * 1.5, 5.0)
    camera = w.camera(vector(0, -top, 0), turn, w.speed(depth, 0.05, 1.5), 1.2)
    paint = w.painter(depth)
    w.parts.append(Part(meshes.terrain(x, z, height(xx, zz)), paint(detail=0.6), Frame()))
    if w.config.water and w.chance(0.5):
        sea = paint(gloss=1.0 * w.config.highlights, water=w.between(0.3, 1.0), plain=w.colour(0.1))
        w.parts.append(Part(meshes.plane((300, 300), 12), sea, Frame(vector(0, w.between(-0.5, 1.0), 60))))
    for _ in range(rng.integers(8, 40)):
        pz = w.scaled(3, 70)
        px = w.between(-0.6, 0.6) * pz / w.focal
        foot = vector(px, -float(height(px, pz)), pz)
        distance = float(np.linalg.norm(foot - camera.frame.place))
        if distance < 2.5:
            continue
        if w.chance(0.45):
            w.parts += things.tree(Frame(foot), w.painter(distance), rng, w.scaled(0.6, 9))
        elif w.chance(0.5):
            radii = rng.uniform(0.2, 1.2, 3) * w.scaled(0.3, 2.5)
            stone = meshes.rock((radii[0], radii[1], radii[2]), 0.3, rng)
            w.parts.append(Part(stone, w.painter(distance)(), Frame(foot)))
        else:
            velocity = w.speed(distance, 0.3) * (1, 0, 1)
            frame = Frame(foot, velocity, vector(0, w.between(0, 6.3), 0), w.spin(0.3) * (0, 1, 0))
            w.thing(frame, distance, w.scaled(0.5, 3))
    w.flying(camera, depth, int(rng.integers(0, 4)))
    w.sky(camera)
    return w.scene(camera, True, 3 * depth, depth)


def _room(w: World) -> Scene:
    """Move about in a room with furniture and people."""
    rng = w.rng
    wide, long, high = w.scaled(3.5, 12), w.scaled(4, 14), w.scaled(2.4, 5)
    eye = vector(w.between(-0.35, 0.35) * wide, -w.between(0.4, 0.8) * high, w.between(-0.45, -0.2) * long)
    goal = vector(w.between(-0.4, 0.4) * wide, -w.between(0.1, 0.6) * high, w.between(0.1, 0.45) * long)
    way = goal - eye
    turn = vector(math.atan2(-way[1], way[2]), math.atan2(way[0], way[2]), 0)
    depth = float(np.linalg.norm(way))
    camera = w.camera(eye, turn, w.speed(depth * 0.7, 0.1, 1.3), 1.3)
    paint = w.painter(depth)
    for side in (
        meshes.plane((wide, long), 6),
        meshes.plane((wide, long), 6).moved(np.eye(3), vector(0, -high, 0)),
    ):
        w.parts.append(Part(side, paint(), Frame()))
    wall = paint()
    for turned, distance, across in (
        (0.0, long, wide),
        (math.pi / 2, wide, long),
        (math.pi, long, wide),
        (-math.pi / 2, wide, long),
    ):
        face = rotation(vector(0, turned, 0))
        mesh = meshes.card(across, high).moved(face, face @ vector(0, 0, distance / 2))
        w.parts.append(Part(mesh, paint() if w.chance(0.3) else wall, Frame()))
        for _ in range(rng.integers(0, 4)):
            picture = meshes.card(w.between(0.3, 1.5), w.between(0.3, 1.2))
            shift = vector(w.between(-0.4, 0.4) * across, -w.between(0.3, 0.6) * high, distance / 2 - 0.03)
            w.parts.append(Part(picture.moved(face, face @ shift), w.painter(depth)(pattern=False), Frame()))
    for _ in range(rng.integers(5, 18)):
        foot = vector(w.between(-0.45, 0.45) * wide, 0, w.between(-0.2, 0.48) * long)
        distance = float(np.linalg.norm((foot - eye)[[0, 2]]))
        if distance < 1.2:
            continue
        frame = Frame(
            foot,
            w.speed(distance, 0.7) * (1, 0, 1),
            vector(0, w.between(0, 6.3), 0),
            w.spin(0.3, 0.7) * (0, 1, 0),
        )
        near, size = w.painter(distance), w.scaled(0.3, 1.9)
        if w.chance(0.35):
            block = meshes.box(*(rng.uniform(0.3, 1.0, 3) * size))
            w.parts.append(Part(block, near(), frame))
        elif w.chance(0.5) and w.config.thin:
            w.parts += things.chair(frame, near, rng, size)
        else:
            w.thing(frame, distance, size)
    w.flying(camera, 0.5 * depth, int(rng.integers(0, 3)))
    return w.scene(camera, False, max(wide, long), depth)


def _stage(w: World) -> Scene:
    """Follow people and animals at close range."""
    rng = w.rng
    w.focal = w.scaled(0.7, 1.8)
    height = w.between(0.5, 2.2)
    depth = w.scaled(2.0, 7.0) * max(w.focal, 1.0)
    follow = w.speed(depth, 0.2, 1.5) * (1, 0.2, 1)
    camera = w.camera(
        vector(0, -height, 0), rng.normal(size=3) * (0.1, 0.3, 0.08), follow * w.between(0.3, 1.2), 1.0
    )
    paint = w.painter(depth)
    height_at = _heights(w, np.zeros(1), np.zeros(1), w.scaled(0.02, 0.3))
    x, z = np.linspace(-60, 60, 25), np.linspace(-20, 120, 25)
    xx, zz = np.meshgrid(x, z)
    w.parts.append(Part(meshes.terrain(x, z, height_at(xx, zz)), paint(detail=0.5), Frame()))
    if w.chance(0.5):
        wall = meshes.box(200, w.between(3, 30), 2)
        w.parts.append(
            Part(
                wall,
                w.painter(4 * depth)(),
                Frame(vector(0, 0, depth * w.scaled(1.5, 6)), turn=vector(0, rng.normal() * 0.3, 0)),
            )
        )
    for _ in range(rng.integers(3, 14)):
        distance = depth * w.scaled(1.3, 5)
        place = w.in_view(camera, distance) * (1, 0, 1)
        w.thing(Frame(place, turn=vector(0, w.between(0, 6.3), 0)), distance, w.scaled(0.5, 5))
    for _ in range(rng.integers(1, 5)):
        distance = depth * w.scaled(0.6, 1.3)
        place = w.in_view(camera, distance, -0.1) * (1, 0, 1)
        velocity = follow * w.between(0.3, 1.3) if w.chance(0.5) else w.speed(distance, 0.2) * (1, 0.3, 1)
        frame = Frame(place, velocity, vector(0, w.between(0, 6.3), 0), w.spin(0.4) * (0.3, 1, 0.3))
        if w.config.bodies:
            make, size = (
                (things.person, w.between(1.2, 2.2))
                if w.chance(0.75)
                else (things.animal, w.between(0.6, 2.5))
            )
            w.parts += make(frame, w.painter(distance), rng, size, w.scaled(0.3, 3.0))
        else:
            w.thing(frame, distance, w.between(0.5, 2.0))
    w.flying(camera, depth, int(rng.integers(0, 3)))
    w.sky(camera)
    return w.scene(camera, True, 2 * depth, depth)


def _floating(w: World) -> Scene:
    """Look at things that float freely before one or several backdrops."""
    rng = w.rng
    depth = 10.0
    camera = w.camera(np.zeros(3), np.zeros(3), w.speed(depth, 0.4, 1.0), 0.8)
    for distance in (4 * depth, *[depth * w.scaled(1.5, 3) for _ in range(rng.integers(0, 3))]):
        reach = 2.6 * distance / w.focal
        back = meshes.card(reach * (1.5 if distance == 4 * depth else 0.5), reach)
        turn = rng.normal(size=3) * (0.2, 0.3, 0.3)
        back = back.moved(np.eye(3), vector(0, reach / 2, 0))
        aside = 0.0 if distance == 4 * depth else 0.4 * reach
        frame = Frame(
            vector(w.between(-aside, aside), 0, distance), w.speed(distance, 0.3, 0.8), turn, w.spin(0.1)
        )
        w.parts.append(Part(back, w.painter(distance)(pattern=False, contrast=1.0), frame))
    w.flying(camera, depth, int(w.scaled(3, 30)))
    w.sky(camera)
    return w.scene(camera, False, 2.0 * depth, depth)
