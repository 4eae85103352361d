"""Things of a scene: each function returns the parts of one thing, standing at the origin of its frame."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from mcjepa.data.rendered import meshes
from mcjepa.data.rendered.meshes import Mesh
from mcjepa.data.rendered.motion import Frame
from mcjepa.data.rendered.scene import Material, Part
from mcjepa.data.rendered.textures import HOLES, LEAVES

Paint = Callable[..., Material]  # paint(hole=...) -> a material for the next part
UPRIGHT = np.array([0.0, 1.0, 0.0])


def vector(x: float, y: float, z: float) -> np.ndarray:
    return np.array([x, y, z], float)


def along(start: np.ndarray, end: np.ndarray, radius: float) -> Mesh:
    """Build a straight rod."""
    return meshes.sweep(np.linspace(start, end, 3), np.full(3, radius), 6)


def car(frame: Frame, paint: Paint, rng: np.random.Generator) -> list[Part]:
    """Build a car or a van along z, with wheels that turn."""
    long, wide, high = rng.uniform(3.4, 5.2), rng.uniform(1.6, 2.0), rng.uniform(1.2, 2.2)
    body, glass, tyre = paint(gloss=0.6), paint(gloss=0.9, dark=True), paint(dark=True)
    lower = meshes.box(wide, 0.5 * high, long).moved(np.eye(3), vector(0, -0.3, 0))
    cabin = meshes.box(wide * 0.85, 0.5 * high, long * rng.uniform(0.45, 0.8))
    slope = np.where(cabin.points[:, 1:2] < -0.25 * high, (0.85, 1.0, 0.75), 1.0)
    cabin = Mesh(cabin.points * slope, cabin.normals, cabin.uv, cabin.faces)
    cabin = cabin.moved(np.eye(3), vector(0, -0.28 - 0.5 * high, -0.05 * long))
    speed = float(frame.velocity @ frame.at(0.0)[0][:, 2])
    wheel = meshes.sweep(
        np.array([[-0.12, 0, 0], [-0.1, 0, 0], [0.1, 0, 0], [0.12, 0, 0.0]]),
        np.array([0.05, 0.33, 0.33, 0.05]),
    )
    parts = [Part(lower, body, frame), Part(cabin, glass if rng.random() < 0.6 else body, frame)]
    for x in (-wide / 2, wide / 2):
        for z in (-0.32 * long, 0.32 * long):
            turning = Frame(vector(x, -0.33, z), spin=vector(speed / 0.33, 0, 0), parent=frame)
            parts.append(Part(wheel, tyre, turning))
    return parts


def tree(frame: Frame, paint: Paint, rng: np.random.Generator, height: float) -> list[Part]:
    """Build a trunk with branches and crowns that can be seen through; bare now and then."""
    wood, leaf = (
        paint(dark=True),
        paint(hole=int(rng.integers(LEAVES)), hole_size=height * rng.uniform(0.15, 0.4)),
    )
    bend = rng.normal(size=(5, 3)) * (0.05 * height, 0, 0.05 * height)
    bend[0] = 0
    path = np.linspace(vector(0, 0.2, 0), vector(0, -height, 0), 5) + bend.cumsum(0) * 0.5
    parts = [Part(meshes.sweep(path, np.linspace(0.05, 0.012, 5) * height, 7), wood, frame)]
    for _ in range(rng.integers(3, 8)):
        start = path[rng.integers(2, 5)]
        way = rng.normal(size=3) * (0.25, 0.08, 0.25) * height + (0, -0.12 * height, 0)
        parts.append(Part(along(start, start + way, 0.008 * height), wood, frame))
        if height < 1.0 or rng.random() < 0.85:
            radii = rng.uniform(0.12, 0.3, 3) * height
            crown = meshes.rock((radii[0], radii[1], radii[2]), 0.2, rng, 5).moved(np.eye(3), start + way)
            parts.append(Part(crown, leaf, frame))
    return parts


def fence(frame: Frame, paint: Paint, rng: np.random.Generator, width: float, height: float) -> list[Part]:
    """Build a fence, a grille or a net between posts."""
    net = paint(hole=int(rng.integers(LEAVES, HOLES)), hole_size=height * rng.uniform(0.5, 1.2), smooth=True)
    post = paint(dark=True)
    parts = [Part(meshes.card(width, height), net, frame)]
    for x in np.arange(-width / 2, width / 2 + 0.1, max(width / 6, 1.0)):
        shaft = meshes.pole(height * 1.05, 0.03 * height).moved(np.eye(3), vector(x, 0, 0))
        parts.append(Part(shaft, post, frame))
    return parts


def sign(frame: Frame, paint: Paint, rng: np.random.Generator, height: float) -> list[Part]:
    """Build a pole, often with a plate, an arm or a lamp on it."""
    metal = paint(gloss=0.5)
    parts = [Part(meshes.pole(height, 0.012 * height + 0.01), metal, frame)]
    if rng.random() < 0.7:
        plate = meshes.card(rng.uniform(0.15, 0.5) * height, rng.uniform(0.15, 0.3) * height)
        parts.append(Part(plate.moved(np.eye(3), vector(0, -0.75 * height, -0.03)), paint(), frame))
    if rng.random() < 0.4:
        top = vector(0, -height, 0)
        arm = along(top, top + vector(rng.uniform(-0.4, 0.4) * height, -0.02, 0), 0.01 * height)
        parts.append(Part(arm, metal, frame))
    return parts


def wires(frame: Frame, paint: Paint, rng: np.random.Generator, length: float) -> list[Part]:
    """Hang some thin lines that sag."""
    metal, parts = paint(dark=True), []
    for _ in range(rng.integers(1, 5)):
        t = np.linspace(-1, 1, 9)
        sag = rng.uniform(0.02, 0.12) * length * (t**2 - 1)
        lift, aside = rng.uniform(-0.2, 0.2, 2) * length
        path = np.stack([t * length / 2, lift - sag, np.full(9, aside)], 1)
        parts.append(
            Part(meshes.sweep(path, np.full(9, rng.uniform(0.001, 0.003) * length), 4), metal, frame)
        )
    return parts


def chair(frame: Frame, paint: Paint, rng: np.random.Generator, height: float) -> list[Part]:
    """Build a chair, a stool or a table: a plate on legs, and perhaps a back."""
    wide, thick = rng.uniform(0.5, 1.4) * height, 0.05 * height
    seat, wood = paint(), paint()
    parts = [Part(meshes.box(wide, thick, wide).moved(np.eye(3), vector(0, -0.5 * height, 0)), seat, frame)]
    leg = 0.47 * wide
    for x in (-leg, leg):
        for z in (-leg, leg):
            back = 0.5 * height * (z > 0 and rng.random() < 0.7)
            shaft = meshes.pole(0.5 * height + back, 0.5 * thick)
            parts.append(Part(shaft.moved(np.eye(3), vector(x, 0, z)), wood, frame))
    for rise in np.arange(0.62, 1.0, rng.uniform(0.08, 0.3)):
        slat = meshes.box(wide, 0.05 * height, 0.03 * height).moved(np.eye(3), vector(0, -rise * height, leg))
        parts.append(Part(slat, wood, frame))
    return parts


def solid(frame: Frame, paint: Paint, rng: np.random.Generator, size: float) -> list[Part]:
    """Build a single thing about the origin: a stone, a ball, a box, a ring, a vase, a rod or a flag."""
    kind = rng.integers(9)
    a, b, c = rng.uniform(0.3, 1.0, 3) * size / 2
    material = paint()
    if kind <= 1:
        mesh = meshes.rock((a, b, c), rng.uniform(0.1, 0.5), rng, 8)
    elif kind == 2:
        mesh = meshes.ellipsoid((a, a, a), 8)
    elif kind <= 4:
        mesh = meshes.box(2 * a, 2 * b, 2 * c).moved(np.eye(3), vector(0, b, 0))
    elif kind == 5:
        mesh = meshes.ring(0.7 * size / 2, rng.uniform(0.05, 0.3) * size / 2)
    elif kind == 6:
        mesh = meshes.lathe(size, 0.4 * size, rng).moved(np.eye(3), vector(0, size / 2, 0))
    elif kind == 7:
        mesh = meshes.sweep(
            np.cumsum(rng.normal(size=(9, 3)) * 0.16 * size, 0), np.full(9, rng.uniform(0.01, 0.08) * size), 7
        )
    else:
        return [flag(frame, paint, rng, size)]
    return [Part(mesh, material, frame)]


def flag(frame: Frame, paint: Paint, rng: np.random.Generator, size: float) -> Part:
    """Hang a cloth that waves."""
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, 25), np.linspace(-0.4, 0.4, 17))
    flat = meshes.grid_mesh(np.stack([x, y, 0 * x], -1) * size, np.stack([x, y], -1) * size)
    ways = rng.normal(size=(3, 2)) * 5 / size
    rates, phases = rng.normal(size=3) * 1.5, rng.uniform(0, 6.3, 3)

    def wave(points: np.ndarray, time: float) -> np.ndarray:
        angle = points[:, :2] @ ways.T + rates * time + phases
        return points + 0.05 * size * np.stack(
            [0.3 * np.cos(angle).sum(1), 0 * points[:, 0], np.sin(angle).sum(1)], 1
        )

    return Part(flat, paint(), frame, wave)


def _limb(
    parent: Frame,
    at: np.ndarray,
    length: float,
    thick: float,
    material: Material,
    rng: np.random.Generator,
    swing: float,
    pose: float,
    segments: int = 2,
) -> list[Part]:
    """Build a limb of segments that turn about their joints, each about the one before."""
    parts = []
    for i in range(segments):
        turn = rng.normal(size=3) * (pose, 0.2 * pose, 0.4 * pose)
        spin = rng.normal(size=3) * (swing, 0.3 * swing, 0.4 * swing)
        parent = Frame(at, turn=turn, spin=spin, parent=parent)
        mesh = meshes.capsule(length / segments, thick * (1 - 0.25 * i), thick * (0.75 - 0.25 * i))
        parts.append(Part(mesh, material, parent))
        at = vector(0, length / segments, 0)
    return parts


def person(frame: Frame, paint: Paint, rng: np.random.Generator, height: float, swing: float) -> list[Part]:
    """Build a body of trunk, head, arms and legs with joints, its feet at the origin."""
    skin, shirt, trousers = paint(smooth=True), paint(), paint()
    stout = rng.uniform(0.8, 1.4)
    hips = Frame(
        vector(0, -0.48 * height, 0),
        turn=rng.normal(size=3) * 0.15,
        spin=rng.normal(size=3) * 0.2 * swing,
        parent=frame,
    )
    chest = Frame(
        vector(0, -0.02 * height, 0),
        turn=rng.normal(size=3) * 0.15,
        spin=rng.normal(size=3) * 0.3 * swing,
        parent=hips,
    )
    neck = Frame(
        vector(0, -0.34 * height, 0),
        turn=rng.normal(size=3) * 0.25,
        spin=rng.normal(size=3) * 0.5 * swing,
        parent=chest,
    )
    trunk = meshes.rock((0.11 * height * stout, 0.2 * height, 0.075 * height * stout), 0.12, rng)
    head = meshes.rock((0.05 * height, 0.075 * height, 0.06 * height), 0.1, rng)
    parts = [
        Part(trunk.moved(np.eye(3), vector(0, -0.17 * height, 0)), shirt, chest),
        Part(meshes.ellipsoid((0.1 * height * stout, 0.08 * height, 0.08 * height * stout)), trousers, hips),
        Part(head.moved(np.eye(3), vector(0, -0.07 * height, 0)), skin, neck),
    ]
    hair = paint(dark=True)
    if rng.random() < 0.7:
        cap = meshes.rock((0.058 * height, 0.06 * height, 0.07 * height), 0.25, rng)
        parts.append(Part(cap.moved(np.eye(3), vector(0, -0.105 * height, 0.02 * height)), hair, neck))
    for _ in range(rng.integers(0, 8)):
        strand = np.cumsum(rng.normal(size=(6, 3)) * 0.02 + (0, 0.03, 0.01), 0) * height + (
            0,
            -0.12 * height,
            0,
        )
        parts.append(Part(meshes.sweep(strand, np.full(6, 0.004 * height), 4), hair, neck))
    for side in (-1, 1):
        arm = vector(side * 0.12 * height * stout, -0.31 * height, 0)
        parts += _limb(
            chest,
            arm,
            0.4 * height,
            0.033 * height * stout,
            shirt if rng.random() < 0.5 else skin,
            rng,
            swing,
            0.7,
        )
        leg = vector(side * 0.06 * height, 0.0, 0)
        parts += _limb(hips, leg, 0.48 * height, 0.05 * height * stout, trousers, rng, 0.6 * swing, 0.3)
    return parts


def animal(frame: Frame, paint: Paint, rng: np.random.Generator, length: float, swing: float) -> list[Part]:
    """Build a body on four legs, or many, with neck, head and tail."""
    fur, stout = paint(), rng.uniform(0.6, 1.5)
    high = rng.uniform(0.3, 0.8) * length
    trunk = Frame(
        vector(0, -high, 0),
        turn=rng.normal(size=3) * 0.1,
        spin=rng.normal(size=3) * 0.2 * swing,
        parent=frame,
    )
    radii = (0.17 * length * stout, 0.17 * length * stout, 0.5 * length)
    parts = [Part(meshes.rock(radii, 0.2, rng), fur, trunk)]
    for z in np.linspace(-0.35, 0.35, int(rng.integers(2, 4))) * length:
        for side in (-1, 1):
            hip = vector(side * 0.12 * length * stout, 0.05 * length, z)
            parts += _limb(trunk, hip, high, 0.05 * length * stout, fur, rng, swing, 0.35)
    neck = Frame(
        vector(0, -0.1 * length, -0.42 * length),
        turn=vector(math.pi - rng.uniform(0.2, 1.2), 0, 0),
        parent=trunk,
    )
    parts += _limb(neck, np.zeros(3), 0.4 * length, 0.08 * length * stout, fur, rng, 0.5 * swing, 0.2)
    head = meshes.rock((0.09 * length, 0.1 * length, 0.15 * length), 0.25, rng)
    parts.append(Part(head, fur, Frame(vector(0, 0.2 * length, 0), parent=parts[-1].frame)))
    tail = Frame(
        vector(0, -0.05 * length, 0.45 * length), turn=vector(rng.uniform(0.5, 2.5), 0, 0), parent=trunk
    )
    return parts + _limb(tail, np.zeros(3), 0.5 * length, 0.025 * length, fur, rng, swing, 0.3, 3)
