"""Rendered pairs: the flow is that of geometry, and frame 2 warped by it is frame 1."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from mcjepa import ops
from mcjepa.config import RenderConfig
from mcjepa.data.draws import Draws
from mcjepa.data.known_motion import Pairs
from mcjepa.data.rendered import gl, meshes, motion, pairs, textures, worlds
from mcjepa.data.rendered.gl import Effects, Light, Renderer, RenderingUnavailable
from mcjepa.data.rendered.motion import Camera, Frame, rotation
from mcjepa.data.rendered.pairs import draw_scene, render_pairs
from mcjepa.data.rendered.scene import Material, Part, Scene

SIZE = (128, 192)
PLAIN = RenderConfig(
    highlights=False, shadows=False, light_changes=False, motion_blur=False, focus_blur=False
)
LIGHT = Light(np.array([0.0, -1.0, 0.0]), *np.full((3, 3), 0.6), np.zeros(3), np.zeros(3))
EFFECTS = Effects(False, False, False, np.zeros(3), 0.0, 0, 0.0, 1.0, 0.0)


@pytest.fixture(scope="module")
def screen() -> Iterator[Renderer]:
    try:
        yield gl.renderer(SIZE)
    except RenderingUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def photographed(screen: Renderer, photos: torch.Tensor) -> Renderer:
    screen.load_photos(photos.permute(0, 2, 3, 1).numpy())
    return screen


def _scene(camera: Camera, *parts: Part) -> Scene:
    return Scene(camera, lambda moment: LIGHT, EFFECTS, 10.0, list(parts))


def _render(photos: torch.Tensor, draws: Callable[..., Draws], *seed: int, **more: object) -> Pairs:
    made = {"number": 1, "size": SIZE, "max_motion": 30.0, "config": PLAIN} | more
    return render_pairs(photos, draws=draws(*seed), **made)


@pytest.fixture
def unchanged_light(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "relight_pairs", lambda img1, img2, draws: (img1, img2))


def _pixels() -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0])), -1).astype(float)  # (H, W, 2)


def test_the_flow_of_a_plane_is_its_homography(photographed):
    """By hand: each pixel's ray meets the plane, whose point is moved and projected again."""
    camera = Camera(
        Frame(
            np.array([0.3, -0.2, 0.1]),
            np.array([0.2, 0.1, 0.4]),
            np.array([0.1, 0.2, -0.1]),
            np.array([0.02, -0.03, 0.05]),
        ),
        focal=0.8,
        zoom=0.05,
        centre=(0.45, 0.6),
    )
    moving = Frame(
        np.array([0.5, 12.0, 9.0]),
        np.array([-0.3, 0.2, 0.1]),
        np.array([0.3, 0.5, 0.2]),
        np.array([0.05, 0.04, -0.06]),
    )
    part = Part(meshes.card(60, 40), Material(0, False, 0.3), moving)
    scene = _scene(camera, part)
    photographed.load(scene.geometry())
    for frame in (0, 1):
        photographed.place(frame, *scene.at(float(frame)))
    looks = (scene.look(0.0, 0.0, SIZE), scene.look(1.0, 1.0, SIZE))
    flow = photographed.motion(0, looks)[..., :2]

    def lens(time: float) -> np.ndarray:
        f = 0.8 * 192 * np.exp(0.05 * time)
        return np.array([[f, 0, 0.45 * 192 - 0.5], [0, f, 0.6 * 128 - 0.5], [0, 0, 1]])

    turn, place = camera.frame.at(0.0)
    rays = np.concatenate([_pixels(), np.ones((*SIZE, 1))], -1) @ np.linalg.inv(lens(0.0)).T @ turn.T
    plane_turn, plane_place = moving.at(0.0)
    normal = plane_turn[:, 2]
    points = place + rays * ((plane_place - place) @ normal / (rays @ normal))[..., None]
    on_plane = (points - plane_place) @ plane_turn
    plane_turn, plane_place = moving.at(1.0)
    turn, place = camera.frame.at(1.0)
    seen = (on_plane @ plane_turn.T + plane_place - place) @ turn @ lens(1.0).T
    wanted = seen[..., :2] / seen[..., 2:] - _pixels()
    assert np.abs(wanted).max() > 5
    np.testing.assert_allclose(flow, wanted, atol=0.02)


def test_a_point_lies_where_the_pinhole_sees_it(photographed):
    """A small plate, 3 m ahead, is drawn about the pixel that follows from the camera by hand."""
    plate = meshes.card(0.2, 0.2).moved(np.eye(3), np.array([0.0, 0.1, 0.0]))
    white = Material(0, False, 1.0, plain=(1.0, 1.0, 1.0), contrast=0.0, glow=1.0)
    scene = _scene(Camera(Frame(), 1.0), Part(plate, white, Frame(np.array([0.5, -0.3, 3.0]))))
    drawn = draw_scene(photographed, scene, 0.0, 10.0)
    bright = drawn.img1.mean(-1) > 128
    assert 120 < bright.sum() < 200  # 12.8 px wide and high
    middle = _pixels()[bright].mean(0)
    np.testing.assert_allclose(middle, [96 - 0.5 + 32, 64 - 0.5 - 19.2], atol=0.6)


@pytest.mark.usefixtures("screen", "unchanged_light")
def test_frame_2_warped_by_the_flow_is_frame_1_where_it_is_visible(photos, draws):
    gaps, moved = [], []
    for seed in range(8):
        made = _render(photos, draws, seed)
        gap = (ops.warp(made.img2, made.flow) - made.img1).abs().mean(1)[made.visible[:, 0]]
        still = (made.img2 - made.img1).abs().mean(1)[made.visible[:, 0]]
        gaps.append(float(gap.mean()))
        moved.append(float(still.mean()))
    assert np.median(gaps) < 4
    assert np.mean(gaps) < 0.4 * np.mean(moved)


def test_what_is_hidden_or_leaves_is_not_visible(photographed):
    """A near plate moves to the right before a wall at rest: it hides a strip as wide as its motion."""
    wall = Part(meshes.card(40, 40), Material(0, False, 1.0), Frame(np.array([0.0, 20.0, 8.0])))
    plate = meshes.card(0.5, 0.5).moved(np.eye(3), np.array([0.0, 0.25, 0.0]))
    moving = Part(plate, Material(1, False, 1.0), Frame(np.array([0.0, 0.0, 2.0]), np.array([0.1, 0.0, 0.0])))
    drawn = draw_scene(photographed, _scene(Camera(Frame(), 1.0), wall, moving), 100 / 6, 100.0)
    assert drawn.flow.max() > 5
    shift = float(drawn.flow[..., 0].max())
    hidden = np.flatnonzero(~drawn.visible[64])
    assert len(hidden) == pytest.approx(shift, abs=2)
    assert hidden.min() == pytest.approx(96 + 24, abs=2)
    assert np.abs(drawn.flow[64, hidden]).max() < 1e-4  # what lies behind keeps its own flow


@pytest.mark.usefixtures("screen")
def test_pairs_are_a_function_of_the_seed(photos, draws):
    one, again, other = (_render(photos, draws, *s, config=RenderConfig()) for s in ((1, 2), (1, 2), (1, 3)))
    assert torch.equal(one.img1, again.img1)
    assert torch.equal(one.img2, again.img2)
    assert torch.equal(one.flow, again.flow)
    assert not torch.equal(one.img1, other.img1)


@pytest.mark.usefixtures("screen")
def test_pairs_have_the_form_of_composed_ones(photos, draws):
    made = _render(photos, draws, 3, number=2)
    assert made.img1.shape == made.img2.shape == (2, 3, *SIZE)
    assert made.img1.dtype == made.img2.dtype == torch.uint8
    assert made.flow.shape == (2, 2, *SIZE)
    assert made.flow.dtype == torch.float32
    assert made.visible.shape == (2, 1, *SIZE)
    assert torch.isfinite(made.flow).all()


@pytest.mark.usefixtures("screen")
@pytest.mark.parametrize("max_motion", [8.0, 60.0])
def test_displacements_reach_about_max_motion(photos, draws, max_motion):
    lengths = [_render(photos, draws, 5, i, max_motion=max_motion).flow.norm(dim=1) for i in range(16)]
    usual = torch.stack([x.quantile(0.95) for x in lengths])
    assert 0.3 * max_motion < usual.max() < 1.2 * max_motion
    assert usual.median() < 0.5 * max_motion
    assert max(float(x.max()) for x in lengths) <= pairs.MOST * max_motion


@pytest.mark.usefixtures("screen", "unchanged_light")
def test_without_motion_nothing_moves(photos, draws):
    made = _render(photos, draws, 8, max_motion=0.0)
    assert made.flow.abs().max() < 1e-3
    assert torch.equal(made.img1, made.img2)
    assert made.visible.float().mean() > 0.99


def _holds(scene: Scene) -> dict[str, bool]:
    materials, effects = [p.material for p in scene.parts], scene.effects
    return {
        "bodies": any(p.frame.parent and p.frame.parent.parent for p in scene.parts),
        "thin": any(m.hole >= 0 for m in materials),
        "textureless": any(m.contrast < 0.3 and m.glow == 0 for m in materials),
        "repeated": any(m.pattern and m.texture >= textures.REPEATED for m in materials),
        "water": any(m.water > 0 for m in materials),
        "highlights": any(m.gloss > 0 for m in materials),
        "shadows": effects.shadows,
        "light_changes": not np.array_equal(scene.light(0.0).sun, scene.light(1.0).sun),
        "fog": effects.density > 0.05,
        "motion_blur": effects.exposure > 0,
        "focus_blur": effects.aperture > 0,
    }


@pytest.mark.parametrize("name", [f.name for f in fields(RenderConfig)])
def test_each_switch_takes_away_what_it_names(name):
    """Some scene has it; none has it when its switch is off."""

    def has(config: RenderConfig, seed: int) -> bool:
        return _holds(worlds.random_world(3, 192, config, np.random.default_rng(seed)))[name]

    assert any(has(RenderConfig(), seed) for seed in range(200))
    without = replace(RenderConfig(), **{name: False})
    assert not any(has(without, seed) for seed in range(8))


def test_a_joint_takes_along_what_hangs_on_it():
    quarter = np.array([0.0, 0.0, np.pi / 2])
    upper = Frame(np.array([1.0, 0.0, 0.0]), turn=quarter / 2, spin=quarter / 2)
    lower = Frame(np.array([0.0, 2.0, 0.0]), turn=quarter / 2, spin=quarter / 2, parent=upper)
    turn, place = lower.at(1.0)
    np.testing.assert_allclose(place, [-1.0, 0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(turn, rotation(2 * quarter), atol=1e-12)
    assert upper.at(100.0)[0][0, 0] == pytest.approx(np.cos(np.pi / 4 + motion.MOST_TURN))


def test_normals_point_outwards():
    rng = np.random.default_rng(0)
    for mesh in (
        meshes.ellipsoid((1.0, 2.0, 0.5)),
        meshes.rock((1.0, 1.0, 1.0), 0.2, rng),
        meshes.box(1, 1, 1).moved(np.eye(3), np.array([0, 0.5, 0])),
    ):
        assert ((mesh.points * mesh.normals).sum(1) > 0).all()
        np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-6)


@pytest.mark.usefixtures("screen")
def test_renderers_of_two_sizes_work_in_turn(photos, draws):
    first = _render(photos, draws, 6)
    other = _render(photos, draws, 6, size=(64, 128))
    again = _render(photos, draws, 6)
    assert other.img1.shape == (1, 3, 64, 128)
    assert torch.equal(first.img1, again.img1)
    assert torch.equal(first.flow, again.flow)


def test_without_egl_the_error_names_its_packages(monkeypatch):
    moderngl = pytest.importorskip("moderngl", reason="moderngl is not installed")

    def fails(**_: object) -> None:
        raise Exception("libEGL.so: cannot open shared object file")

    monkeypatch.setattr(moderngl, "create_standalone_context", fails)
    with pytest.raises(RenderingUnavailable, match=r"libEGL\.so.*libegl1 libgl1-mesa-dri"):
        gl._context.__wrapped__()


def test_without_moderngl_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "moderngl", None)
    with pytest.raises(RenderingUnavailable, match=r"\[render\]"):
        gl._context.__wrapped__()
