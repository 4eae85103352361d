"""Label propagation: the objects of a video's first frame followed to its end, by features and by flow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from mcjepa.data.masks import MaskedVideo, open_davis
from mcjepa.evaluation.jf import boundary_f, region_similarity
from mcjepa.evaluation.panels import error_colours, mask_colours, write_panels
from mcjepa.evaluation.tables import markdown_table
from mcjepa.predictors import FlowPredictor, OnnxModels, TorchModel, dis_flow, zero_flow

# The protocol of DINO (Caron et al., 2021, appendix), after Jabri et al. (2020)
CONTEXT = 7  # frames before the current one that labels come from, besides the first frame
RADIUS = 12  # cells of stride 8: how far from its place in the frame a label may have come
TOP_K = 5
TEMPERATURE = 0.1

Row = dict[str, Any]
Masks = Iterator[np.ndarray]  # object numbers uint8 (H, W) of the frames after the first
Method = Callable[[MaskedVideo], Masks]


def evaluate_propagation(
    models: OnnxModels | TorchModel, root: Path, split: str | None = None, pictures: Path | None = None
) -> list[Row]:
    """J and F (per cent, means over the objects of all videos) of propagation by features and by flow.

    root: a folder laid out as DAVIS, see `open_davis`. One row a method: method, videos, objects, j, f, jf
    and, as `by_video`, the J&F of each video. As in DAVIS, neither the first nor the last frame of a video
    counts. Beside the two ways stand flow by DIS, and zero flow, which leaves the objects where they were.
    pictures: a folder for pictures of the videos with the best and the worst J&F by features and by flow.
    """
    methods: dict[str, Method] = {
        "zero flow": lambda video: by_flow(video, zero_flow),
        "DIS medium": lambda video: by_flow(video, dis_flow),
        "mcjepa flow": lambda video: by_flow(video, models.flow),
        "mcjepa features": lambda video: by_features(video, models.features),
    }
    videos = open_davis(root, split)
    scores = {name: [] for name in methods}  # type: dict[str, list[np.ndarray]]
    for video in tqdm(videos, unit="video", desc="propagate"):
        for name, method in methods.items():
            scores[name].append(judge(video, method(video)))
    if pictures is not None:
        for name in ("mcjepa flow", "mcjepa features"):
            _draw_extremes(videos, scores[name], methods[name], pictures / name.replace(" ", "-"))
    return [_summary(name, videos, scores[name]) for name in methods]


def judge(video: MaskedVideo, masks: Masks) -> np.ndarray:
    """J and F of each object of the first frame, means over the frames: (objects, 2), 0 to 1."""
    objects = _objects(video)
    scores = []
    for t, mask in enumerate(masks, start=1):
        if t < len(video.frames) - 1:
            truth = video.mask(t)
            scores.append([_j_and_f(mask == number, truth == number) for number in objects])
    return np.mean(scores, axis=0)


def by_flow(video: MaskedVideo, predict: FlowPredictor) -> Masks:
    """Follow each pixel back to the first frame, flow by flow, and take the label found there."""
    first = video.mask(0)
    h, w = first.shape
    xs, ys = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    grid = np.dstack([xs, ys])  # (H, W, 2), (x, y)
    origin = grid  # where the pixels of the current frame lay in the first one
    previous = video.frame(0)
    for t in range(1, len(video.frames)):
        current = video.frame(t)
        back = grid + predict(current, previous)
        origin = _sample(origin, back, cv2.INTER_LINEAR)
        yield _sample(first, origin, cv2.INTER_NEAREST)
        previous = current


def _sample(values: np.ndarray, where: np.ndarray, how: int) -> np.ndarray:
    """values (H, W, ...) at the positions `where` (H, W, 2), (x, y); outside, the nearest border value."""
    return cv2.remap(values, where[..., 0], where[..., 1], how, borderMode=cv2.BORDER_REPLICATE)


def by_features(video: MaskedVideo, features: Callable[[np.ndarray], np.ndarray]) -> Masks:
    """Each cell takes its label from the TOP_K most similar ones nearby, in the first and the last frames."""
    first = video.mask(0)
    objects = np.array([0, *_objects(video)], np.uint8)
    feats = _normalised(features(video.frame(0)))
    start = (feats, _shares(first, objects, feats.shape[-2:]))
    recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=CONTEXT)
    for t in range(1, len(video.frames)):
        query = _normalised(features(video.frame(t)))
        context = [start, *recent]
        shares = propagate(query, torch.stack([c[0] for c in context]), torch.stack([c[1] for c in context]))
        recent.append((query, shares))
        yield objects[_upsample(shares, first.shape).argmax(0).numpy()]


def propagate(query: Tensor, feats: Tensor, shares: Tensor) -> Tensor:
    """Labels of one frame from those of others.

    query (C, H, W) and feats (T, C, H, W) are l2-normalised, shares (T, K, H, W) of K labels -> (K, H, W).
    """
    h, w = query.shape[1:]
    columns = torch.arange(w)
    far = (columns[:, None] - columns[None, :]).abs() > RADIUS  # (W, W)
    rows = []
    for y in range(h):
        near = slice(max(0, y - RADIUS), y + RADIUS + 1)
        similarity = torch.einsum("cx,tcyz->xtyz", query[:, y], feats[:, :, near])
        similarity = similarity.masked_fill(far[:, None, None, :], -torch.inf).flatten(1)  # (W, T * rows * W)
        top = similarity.topk(TOP_K, dim=1)
        weights = (top.values / TEMPERATURE).softmax(dim=1)  # (W, k)
        labels = shares[:, :, near].transpose(0, 1).flatten(1)[:, top.indices]  # (K, W, k)
        rows.append((labels * weights).sum(-1))
    return torch.stack(rows, dim=1)


def _objects(video: MaskedVideo) -> list[int]:
    objects = [int(number) for number in np.unique(video.mask(0)) if number]
    if not objects:
        raise ValueError(f"{video.masks[0]}: marks no object")
    return objects


def _j_and_f(mask: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    return region_similarity(mask, truth), boundary_f(mask, truth)


def _normalised(feats: np.ndarray) -> Tensor:
    return F.normalize(torch.from_numpy(feats), dim=0)


def _shares(mask: np.ndarray, objects: np.ndarray, size: Sequence[int]) -> Tensor:
    """The share of each cell that each label takes: (H, W) -> (K, h, w)."""
    planes = [
        cv2.resize((mask == n).astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_AREA)
        for n in objects
    ]
    return torch.from_numpy(np.stack(planes))


def _upsample(shares: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(shares[None], tuple(size), mode="bilinear", align_corners=False)[0]


def _summary(method: str, videos: Sequence[MaskedVideo], scores: Sequence[np.ndarray]) -> Row:
    """scores: of each video (objects, 2)."""
    j, f = 100 * np.concatenate(scores).mean(axis=0)
    return {
        "method": method,
        "videos": len(videos),
        "objects": sum(map(len, scores)),
        "j": round(float(j), 2),
        "f": round(float(f), 2),
        "jf": round(float(j + f) / 2, 2),
        "by_video": {v.name: round(100 * float(s.mean()), 2) for v, s in zip(videos, scores, strict=True)},
    }


def _draw_extremes(
    videos: Sequence[MaskedVideo], scores: Sequence[np.ndarray], method: Method, folder: Path
) -> None:
    order = np.argsort([s.mean() for s in scores])
    for which, i in (("best", order[-1]), ("worst", order[0])):
        _draw(
            videos[i],
            method,
            f"J&F {100 * scores[i].mean():.1f}",
            folder.with_name(f"{folder.name}-{which}.png"),
        )


def _draw(video: MaskedVideo, method: Method, score: str, path: Path) -> None:
    """First frame; then the truth, the prediction and where they differ, in the middle and near the end."""
    masks = list(method(video))
    last = len(video.frames) - 2
    panels = []
    for t in (max(1, last // 2), last):
        img, truth, mask = video.frame(t), video.mask(t), masks[t - 1]
        wrong = error_colours((mask != truth).astype(np.float32), np.ones(mask.shape, bool), 1.0)
        panels += [
            (f"{video.name} frame {t}: truth", mask_colours(img, truth)),
            (f"prediction, {score}", mask_colours(img, mask)),
            ("wrong pixels", wrong),
        ]
    start = (f"{video.name} frame 0, given", mask_colours(video.frame(0), video.mask(0)))
    write_panels(path, [*panels, start])


def propagation_table(rows: Sequence[Row]) -> str:
    """The result of `evaluate_propagation` as a Markdown table."""
    same = {name: name for name in ("method", "videos", "objects")}
    return markdown_table(same | {"J, %": "j", "F, %": "f", "J&F, %": "jf"}, rows)
