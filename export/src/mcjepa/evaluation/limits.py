"""Where the flow fails: scenes made from one picture, each hard in one way, whose true flow is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mcjepa import metrics
from mcjepa.evaluation.panels import error_colours, flow_colours, write_panels
from mcjepa.evaluation.tables import markdown_table
from mcjepa.predictors import FlowPredictor, OnnxModels, TorchModel, dis_flow, zero_flow

Row = dict[str, Any]
SIZE = (384, 512)  # H, W of a scene, px
PAN = 140  # px, beyond the 128 that the first level reaches
ERROR_LIMIT = 20.0  # px, the brightest colour of an error map


@dataclass(frozen=True)
class Scene:
    """img1, img2: uint8 (H, W, 3) RGB; flow: float32 (H, W, 2) px; judged: bool (H, W), what counts."""

    name: str
    img1: np.ndarray
    img2: np.ndarray
    flow: np.ndarray
    judged: np.ndarray


def evaluate_limits(
    models: OnnxModels | TorchModel, picture: np.ndarray, drawing: Path | None = None
) -> list[Row]:
    """One row a scene: its name, and the end-point errors (px) of zero flow, DIS and the model where judged.

    picture: uint8 (H, W, 3) RGB. drawing: a file for both frames, true flow, flow and error of each scene.
    """
    methods: dict[str, FlowPredictor] = {"zero": zero_flow, "DIS medium": dis_flow, "mcjepa": models.flow}
    rows, panels = [], []
    for scene in scenes(picture):
        flows = {name: predict(scene.img1, scene.img2) for name, predict in methods.items()}
        rows.append({"scene": scene.name, **_errors(scene, flows)})
        panels += _panels(scene, flows["mcjepa"])
    if drawing is not None:
        write_panels(drawing, panels, columns=5)
    return rows


def limits_table(rows: Sequence[Row]) -> str:
    """The result of `evaluate_limits` as a Markdown table."""
    methods = {f"{key}, px": key for key in rows[0] if key != "scene"}
    return markdown_table({"scene": "scene"} | methods, rows)


def scenes(picture: np.ndarray) -> Iterator[Scene]:
    """The hard scenes, from one picture (H, W, 3)."""
    wide = _covering(picture, SIZE[0], SIZE[1] + PAN)
    backdrop, beside = wide[:, : SIZE[1]], wide[:, PAN : PAN + SIZE[1]]
    yield _moved(f"everything moves by {PAN} px", backdrop, beside, np.ones(SIZE, bool), (-PAN, 0))
    other = backdrop[::-1, ::-1]  # what objects are cut from
    yield _object("an object of 16 px moves by 40 px", backdrop, other, _disc(8), (40, 0))
    yield _object("bars of 3 px move by 12 px", backdrop, other, _bars(), (12, 0))
    plain = np.full_like(other, 128)
    yield _object("a plain object moves by 24 px", backdrop, plain, _disc(90), (24, 0))
    yield _hidden("what a moving object hides", backdrop, other, _disc(80), (60, 0))


def _moved(name: str, img1: np.ndarray, img2: np.ndarray, what: np.ndarray, motion: tuple[int, int]) -> Scene:
    return Scene(name, img1, img2, what[..., None] * np.array(motion, np.float32), what)


def _object(
    name: str, backdrop: np.ndarray, texture: np.ndarray, mask: np.ndarray, motion: tuple[int, int]
) -> Scene:
    """The texture within the mask (H, W) moves before a backdrop that rests; the object is judged."""
    img1 = np.where(mask[..., None], texture, backdrop)
    img2 = np.where(_shifted(mask, motion)[..., None], _shifted(texture, motion), backdrop)
    return _moved(name, img1, img2, mask, motion)


def _hidden(
    name: str, backdrop: np.ndarray, texture: np.ndarray, mask: np.ndarray, motion: tuple[int, int]
) -> Scene:
    """The same, but judged is the backdrop that the object covers in frame 2."""
    scene = _object(name, backdrop, texture, mask, motion)
    return replace(scene, judged=_shifted(mask, motion) & ~mask)


def _shifted(array: np.ndarray, motion: tuple[int, int]) -> np.ndarray:
    return np.roll(array, motion[::-1], axis=(0, 1))


def _disc(radius: int) -> np.ndarray:
    ys, xs = np.ogrid[: SIZE[0], : SIZE[1]]
    return (ys - SIZE[0] // 2) ** 2 + (xs - SIZE[1] // 3) ** 2 <= radius**2


def _bars() -> np.ndarray:
    """Five upright bars, 3 px wide and 48 px apart."""
    ys, xs = np.ogrid[: SIZE[0], : SIZE[1]]
    return (xs >= 96) & (xs < 336) & ((xs - 96) % 48 < 3) & (ys >= 64) & (ys < 320)


def _covering(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The picture scaled to just cover (height, width), and cut to it about its middle."""
    scale = max(height / picture.shape[0], width / picture.shape[1])
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    scaled = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
    top, left = (scaled.shape[0] - height) // 2, (scaled.shape[1] - width) // 2
    return scaled[top : top + height, left : left + width]


def _errors(scene: Scene, flows: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: round(metrics.epe(flow, scene.flow, scene.judged), 2) for name, flow in flows.items()}


def _panels(scene: Scene, flow: np.ndarray) -> list[tuple[str, np.ndarray]]:
    limit = float(np.linalg.norm(scene.flow, axis=-1).max())
    error = np.linalg.norm(flow - scene.flow, axis=-1)
    errors = error_colours(error, scene.judged, ERROR_LIMIT)
    return [
        (f"{scene.name}: frame 1", scene.img1),
        ("frame 2", scene.img2),
        ("true flow", flow_colours(scene.flow, limit)),
        ("predicted flow", flow_colours(flow, limit)),
        (f"error where judged, yellow at {ERROR_LIMIT:.0f} px", errors),
    ]
