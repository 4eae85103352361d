"""Draw scenes with OpenGL: the driver of a GPU, or Mesa's llvmpipe on one thread of a CPU."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from mcjepa.data.rendered import shaders
from mcjepa.data.rendered.textures import holes, patterns

SHADOW_SIDE = 768  # px of the map of what the light reaches
MATERIALS = 512  # in a scene, at most
COARSE = 8  # px from sample to sample of a quick look at the motion
BLUR_SAMPLES = 9


class RenderingUnavailable(RuntimeError):
    """moderngl or EGL cannot be had on this machine."""


@dataclass(frozen=True)
class Geometry:
    """What of a scene stays the same at all times.

    uv: (V, 2) and material: (V,) of the points; faces: (F, 3), in the order of `counts`: numbers
    of those with photos and whole, with photos and holes, with patterns and whole, with patterns and holes;
    materials: (M, 4, 4), see `scene.Material`.
    """

    uv: np.ndarray
    material: np.ndarray
    faces: np.ndarray
    counts: tuple[int, ...]
    materials: np.ndarray


@dataclass(frozen=True)
class Light:
    """The light of one frame: directions and places (3,), colours (3,) of linear light."""

    sun: np.ndarray  # to where it comes from
    sunlight: np.ndarray
    sky: np.ndarray
    ground: np.ndarray
    lamp: np.ndarray
    lamplight: np.ndarray


@dataclass(frozen=True)
class Look:
    """How one frame is seen: view and shade (4, 4) to clip coordinates of camera and light, eye (3,)."""

    view: np.ndarray
    shade: np.ndarray
    eye: np.ndarray
    light: Light
    moment: float


@dataclass(frozen=True)
class Effects:
    """What a scene has in both frames; 0 and False switch off."""

    shadows: bool
    gloss: bool
    water: bool
    haze: np.ndarray  # (3,)
    density: float  # of the fog, 1 / m
    mirrored: int  # texture that reflections show
    exposure: float  # share of the time between the frames that the shutter is open
    focus: float  # 1 / m
    aperture: float  # px of defocus at a distance of 1 / m from the focus


@dataclass(frozen=True)
class Drawn:
    """img1, img2: uint8 (H, W, 3); flow: float32 (H, W, 2) px; visible: bool (H, W)."""

    img1: np.ndarray
    img2: np.ndarray
    flow: np.ndarray
    visible: np.ndarray


@cache
def _context() -> Any:
    """Open this process's context, without a window. Raises RenderingUnavailable saying what is missing."""
    try:
        import moderngl
    except ImportError as error:
        raise RenderingUnavailable(
            "moderngl is not installed, which rendered pairs need: "
            "pip install './export[render]' in a clone of mcjepa"
        ) from error
    before = os.environ.get("LP_NUM_THREADS")
    os.environ.setdefault("LP_NUM_THREADS", "0")  # llvmpipe draws in this thread, not on all cores
    try:
        return moderngl.create_standalone_context(require=330, backend="egl")  # type: ignore[arg-type]
    except Exception as error:  # moderngl and glcontext raise Exception itself
        raise RenderingUnavailable(
            f"OpenGL 3.3 through EGL cannot be had ({error}), which rendered pairs need: "
            "install the GPU's driver, or Mesa's (Debian: apt-get install libegl1 libgl1-mesa-dri)"
        ) from error
    finally:
        if before is None:
            os.environ.pop("LP_NUM_THREADS", None)


@cache
def renderer(size: tuple[int, int]) -> Renderer:
    """Return this process's renderer of frames (H, W); to be used in one thread only."""
    return Renderer(size)


class Renderer:
    """Draws frames of one size. Raises RenderingUnavailable where there is no OpenGL."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.gl = gl = _context()
        self.size = size
        h, w = size
        self.depth_test = gl.DEPTH_TEST
        depth = gl.depth_renderbuffer((w, h))
        self.sharp, self.finished = self._image((w, h), 4, "f1", depth), self._image((w, h), 4, "f1")
        self.sharp.depth_mask = False  # drawn after a motion, whose depth it needs
        self.motions = [self._image((w, h), 4, "f4", depth) for _ in range(2)]
        few = (w // COARSE, h // COARSE)
        self.coarse = self._image(few, 4, "f4", gl.depth_renderbuffer(few))
        self.tiles = self._image((-(-w // shaders.SPREAD), -(-h // shaders.SPREAD)), 4, "f4")
        self.visible = self._image((w, h), 1, "f1")
        self.shadow = gl.depth_texture((SHADOW_SIDE, SHADOW_SIDE))
        self.shadow.repeat_x = self.shadow.repeat_y = False
        self.shadow.filter = (gl.LINEAR, gl.LINEAR)
        self.shadow.compare_func = "<="
        self.shadow_frame = gl.framebuffer([], self.shadow)
        self.materials = gl.texture((4, MATERIALS), 4, dtype="f4")
        self.materials.filter = (gl.NEAREST, gl.NEAREST)
        self.holes = self._textures(holes()[..., None])
        self.photos: Any = None
        self.patterns: Any = None
        self.statics, self.indices = gl.buffer(reserve=1, dynamic=True), gl.buffer(reserve=1, dynamic=True)
        self.points = [gl.buffer(reserve=1, dynamic=True) for _ in range(2)]
        self.corners = gl.buffer(np.array([-1, -1, 1, -1, -1, 1, 1, 1], "f4").tobytes())
        self.programs: dict[tuple[str, ...], Any] = {}

    def _image(self, size: tuple[int, int], channels: int, dtype: str, depth: Any = None) -> Any:
        texture = self.gl.texture(size, channels, dtype=dtype)
        texture.repeat_x = texture.repeat_y = False
        if dtype == "f4":
            texture.filter = (self.gl.NEAREST, self.gl.NEAREST)
        return self.gl.framebuffer([texture], depth)

    def _program(self, vertex: str, fragment: str, *defined: str) -> Any:
        key = (vertex, fragment, *defined)
        if key not in self.programs:
            lines = "#version 330\n" + "".join(f"#define {name}\n" for name in defined)
            self.programs[key] = self.gl.program(vertex, fragment.replace("#version 330\n", lines))
        return self.programs[key]

    def _textures(self, images: np.ndarray) -> Any:
        """Take images uint8 (N, h, w, C) as textures that are mirrored at their edges."""
        n, h, w, channels = images.shape
        textures = self.gl.texture_array((w, h, n), channels, images.tobytes(), alignment=1)
        textures.build_mipmaps()
        textures.filter = (self.gl.LINEAR_MIPMAP_LINEAR, self.gl.LINEAR)
        return textures

    def load_photos(self, photos: np.ndarray) -> None:
        """Take photos uint8 (P, h, w, 3) as textures."""
        p, h, w = photos.shape[:3]
        if self.photos is None or self.photos.size != (w, h, p):
            self.photos = self._textures(photos)
            self.patterns = self._textures(patterns((h, w)))
        else:
            self.photos.write(np.ascontiguousarray(photos), alignment=1)
            self.photos.build_mipmaps()

    def load(self, geometry: Geometry) -> None:
        """Take what stays the same at all times."""
        _put(self.statics, np.column_stack([geometry.uv, geometry.material]).astype("f4"))
        _put(self.indices, geometry.faces.astype("i4"))
        self.materials.write(geometry.materials.astype("f4"), viewport=(0, 0, 4, len(geometry.materials)))
        self.counts = geometry.counts

    def place(self, frame: int, points: np.ndarray, normals: np.ndarray) -> None:
        """Take the points and normals (V, 3) of frame 0 or 1."""
        _put(self.points[frame], np.column_stack([points, normals]).astype("f4"))

    def motion(self, frame: int, looks: tuple[Look, Look], coarse: bool = False) -> np.ndarray:
        """Return (dx, dy) px to the other frame, distance here and there: float32 (H, W, 4).

        With `coarse`, every COARSE-th pixel only. Where nothing is, all are 0.
        """
        target = self.coarse if coarse else self.motions[frame]
        self._motion(target, frame, looks)
        step = COARSE if coarse else 1
        return _read(target, 4, np.float32) * np.array([step, step, 1, 1], np.float32)

    def _motion(self, target: Any, frame: int, looks: tuple[Look, Look]) -> None:
        target.clear(depth=1.0)
        whole = self._program(shaders.MOTION_VERTEX, shaders.MOTION_FRAGMENT)
        holed = self._program(shaders.MOTION_VERTEX, shaders.MOTION_FRAGMENT, "HOLES")
        here, there = looks[frame], looks[1 - frame]
        for program in (whole, holed):
            _set(program, view=here.view, other_view=there.view, size=target.size)
        both = [(self.points[frame], "3f 3x4", "point"), (self.points[1 - frame], "3f 3x4", "other")]
        self._draw(target, (whole, holed), both)

    def image(self, frame: int, look: Look, effects: Effects) -> None:
        """Draw what is seen, into `sharp`; `motion` has drawn this frame just before, and left the depth."""
        if effects.shadows:
            self.shadow_frame.clear(depth=1.0)
            program = self._program(shaders.SHADOW_VERTEX, shaders.SHADOW_FRAGMENT)
            _set(program, view=look.shade)
            self._draw(self.shadow_frame, (program, program), [(self.points[frame], "3f 3x4", "point")])
        names = [n.upper() for n in ("shadows", "gloss", "water") if getattr(effects, n)]
        program = self._program(shaders.SURFACE_VERTEX, shaders.SURFACE_FRAGMENT, *names)
        light = look.light
        _set(program, view=look.view, shade=look.shade, eye=look.eye, sun=light.sun, sunlight=light.sunlight)
        _set(program, sky=light.sky, ground=light.ground, lamp=light.lamp, lamplight=light.lamplight)
        _set(
            program, haze=effects.haze, density=effects.density, moment=look.moment, mirrored=effects.mirrored
        )
        self.sharp.clear(*np.sqrt(effects.haze))
        self.gl.depth_func = "=="
        self._draw(self.sharp, (program, program), [(self.points[frame], "3f 3f", "point", "normal")])
        self.gl.depth_func = "<"

    def finish(self, frame: int, effects: Effects) -> None:
        """Blur what was drawn by motion and defocus, or smooth its edges, into `finished`."""
        sharp = self.sharp.color_attachments[0]
        if effects.exposure == 0 and effects.aperture == 0:
            self._whole(self.finished, shaders.SMOOTH_FRAGMENT, sharp=sharp, size=self.finished.size)
            return
        how = {"exposure": effects.exposure, "focus": effects.focus, "aperture": effects.aperture}
        motion = self.motions[frame].color_attachments[0]
        self._whole(self.tiles, shaders.TILES_FRAGMENT, motion=motion, **how)
        fragment = shaders.BLUR_FRAGMENT.replace("COUNT", str(BLUR_SAMPLES))
        images = {"sharp": sharp, "tiles": self.tiles.color_attachments[0]}
        self._whole(self.finished, fragment, motion=motion, size=self.finished.size, **images, **how)

    def draw(self, looks: tuple[Look, Look], effects: Effects, flow: np.ndarray) -> Drawn:
        """Draw both frames; `flow` is that of `motion` of the first, which was drawn just before."""
        images = []
        for frame in (0, 1):
            if frame == 1:
                self._motion(self.motions[frame], frame, looks)
            self.image(frame, looks[frame], effects)
            self.finish(frame, effects)
            images.append(_read(self.finished, 3, np.uint8))
        motions = [m.color_attachments[0] for m in self.motions]
        self._whole(
            self.visible,
            shaders.VISIBLE_FRAGMENT,
            motion=motions[0],
            other=motions[1],
            size=self.visible.size,
        )
        return Drawn(images[0], images[1], flow, _read(self.visible, 1, np.uint8)[..., 0] > 127)

    def _draw(self, target: Any, programs: tuple[Any, Any], points: list[tuple]) -> None:
        """Draw all triangles, those that are whole by the first program, those with holes by the second."""
        content = [*points, (self.statics, "2f 1f", "uv", "material")]
        target.use()
        self.gl.enable_only(self.depth_test)
        textures = {"materials": self.materials, "holes": self.holes, "shadows": self.shadow}
        vertices = [
            self.gl.vertex_array(p, content, index_buffer=self.indices, skip_errors=True) for p in programs
        ]
        first = 0
        for i, count in enumerate(self.counts):
            if count:
                used = self.photos if i < 2 else self.patterns
                _bind(programs[i % 2], {**textures, "textures": used})
                vertices[i % 2].render(vertices=3 * count, first=first)
            first += 3 * count
        for made in vertices:
            made.release()

    def _whole(self, target: Any, fragment: str, **values: Any) -> None:
        """Run a program for each pixel of `target`; textures and numbers go by their names in it."""
        program = self._program(shaders.WHOLE_VERTEX, fragment)
        textures = {k: v for k, v in values.items() if isinstance(v, type(self.materials))}
        _set(program, **{k: v for k, v in values.items() if k not in textures})
        _bind(program, textures)
        target.use()
        self.gl.enable_only(0)
        vertices = self.gl.vertex_array(program, [(self.corners, "2f", "corner")])
        vertices.render(self.gl.TRIANGLE_STRIP)
        vertices.release()


def _put(buffer: Any, values: np.ndarray) -> None:
    if buffer.size < values.nbytes:
        buffer.orphan(values.nbytes * 3 // 2)
    buffer.write(np.ascontiguousarray(values))


def _set(program: Any, **values: Any) -> None:
    """Set uniforms; those that a variant of the program does not use are left out."""
    for name, value in values.items():
        if name in program:
            many = np.asarray(value, "f4")
            program[name].write((many.T if many.ndim == 2 else many).tobytes())


def _bind(program: Any, textures: dict[str, Any]) -> None:
    for unit, (name, texture) in enumerate(textures.items()):
        if name in program:
            texture.use(unit)
            program[name] = unit


def _read(target: Any, channels: int, dtype: type) -> np.ndarray:
    w, h = target.size
    kind = "f4" if dtype is np.float32 else "f1"
    return np.frombuffer(target.read(components=channels, dtype=kind, alignment=1), dtype).reshape(
        h, w, channels
    )
