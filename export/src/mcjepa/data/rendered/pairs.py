"""Known-motion pairs rendered from random scenes, whose flow follows from where each surface point goes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mcjepa.config import RenderConfig
from mcjepa.data.draws import Draws
from mcjepa.data.known_motion import Pairs
from mcjepa.data.light import relight_pairs
from mcjepa.data.rendered.gl import Drawn, Renderer, renderer
from mcjepa.data.rendered.scene import Scene
from mcjepa.data.rendered.worlds import random_world

MOST_PHOTOS = 6  # that a pair shows
USUAL = 0.6  # of a pair's reach: the motion that one pixel of twenty exceeds
MOST = 2.0  # times max_motion: the largest motion
LONGEST = 20.0  # time between the frames
MIDDLE = 115  # of 255: about the mean of frame 1, before the light is changed
LEAST = 0.15  # metres from the camera of frame 2, below which a surface has no place in it
ATTEMPTS = 6  # to find the time between the frames, the first half at a few pixels


def render_pairs(
    photos: Tensor,
    number: int,
    size: tuple[int, int],
    max_motion: float,
    draws: Draws,
    config: RenderConfig | None = None,
) -> Pairs:
    """Render `number` pairs of `size` (H, W) of random scenes with surfaces from photos uint8 (P, 3, h, w).

    Each pair has a reach of its own, max_motion * u^1.5 with u uniform, as in `compose_pairs`. The flow is
    that of the surface point in each pixel's centre, hidden and leaving ones too.
    Raises RenderingUnavailable where there is no moderngl or no OpenGL.
    """
    config = config or RenderConfig()
    gl = renderer(size)
    used = photos[: MOST_PHOTOS * number]
    gl.load_photos(used.permute(0, 2, 3, 1).cpu().numpy())
    drawn = [_pair(gl, len(used), max_motion, config, draws.host) for _ in range(number)]
    img1, img2 = (_stack([getattr(d, name) for d in drawn]).float() for name in ("img1", "img2"))
    exposure = (MIDDLE / img1.mean((1, 2, 3), keepdim=True).clamp(min=1)).clamp(0.5, 3.0)
    img1, img2 = relight_pairs(img1 * exposure, img2 * exposure, draws)
    visible = torch.from_numpy(np.stack([d.visible for d in drawn]))[:, None]
    return Pairs(img1, img2, _stack([d.flow for d in drawn]), visible)


def _pair(
    gl: Renderer, photos: int, max_motion: float, config: RenderConfig, rng: np.random.Generator
) -> Drawn:
    scene = random_world(photos, gl.size[1], config, rng)
    return draw_scene(gl, scene, max_motion * rng.random() ** 1.5, max_motion)


def draw_scene(gl: Renderer, scene: Scene, reach: float, max_motion: float) -> Drawn:
    """Draw a scene at time 0 and at the time when its motion has reached about `reach` px."""
    gl.load(scene.geometry())
    gl.place(0, *scene.at(0.0))
    first, time, last = scene.look(0.0, 0.0, gl.size), 1.0, False
    for attempt in range(ATTEMPTS):
        last = last or attempt >= ATTEMPTS // 2  # from now on of all pixels: thin things are missed before
        gl.place(1, *scene.at(time))
        looks = (first, scene.look(time, 1.0, gl.size))
        motion = gl.motion(0, looks, coarse=not last)
        length = np.linalg.norm(motion[..., :2], axis=-1)
        factor = MOST * max_motion / max(float(length.max()), 1e-3)
        factor = 0.9 * factor if factor < 1 else factor  # motion is not quite proportional to time
        if not last:
            factor = min(factor, USUAL * reach / max(float(np.quantile(length, 0.95)), 1e-3))
        if (motion[..., 3] < LEAST)[motion[..., 2] > 0].any():
            factor = min(factor, 0.5)
        elif last and factor >= 1:
            break
        elif 0.8 < factor < 1.25:
            last = True
            continue
        time = min(time * factor, LONGEST)
    return gl.draw(looks, scene.effects, motion[..., :2])


def _stack(arrays: list[np.ndarray]) -> Tensor:
    """Arrays (H, W, C) -> (B, C, H, W), in memory as composed pairs are."""
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
