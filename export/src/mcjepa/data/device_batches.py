"""Batches made on the training device from pictures in its memory: workers on the CPU cannot feed a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mcjepa import distributed
from mcjepa.config import Config, StageConfig
from mcjepa.data.batches import IMAGES, KNOWN_MOTION, VIEWS, Batch, Sources
from mcjepa.data.device_views import two_views
from mcjepa.data.draws import Draws
from mcjepa.data.images import ImageSet, cut_to
from mcjepa.data.known_motion import as_photo, compose_pairs


class DeviceBatches:
    """The batches of a run as `StepBatches` makes them, but for the random numbers, and without video pairs.

    A pure function of (seed, step, stage, process): with another number of processes come other examples.
    photos: uint8 (N, 3, *PHOTO); images: uint8 (N, 3, s, s), s the largest `image_crop`; None where unused.
    """

    def __init__(self, sources: Sources, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        side = max(stage.image_crop for stage in config.train.stages)
        self.photos = None if sources.photos is None else _held(sources.photos, as_photo, device)
        self.images = None
        if sources.images is not None:
            self.images = _held(sources.images, lambda img: cut_to(img, (side, side)), device)

    def batches(self, stage: StageConfig, steps: range) -> Iterator[Batch]:
        return (self.batch(stage, step) for step in steps)

    @torch.no_grad()
    def batch(self, stage: StageConfig, step: int) -> Batch:
        """This process's part of the batch of a step; keys and shapes as in `StepBatches`."""
        made: Batch = {}
        if self.photos is not None and stage.batch:
            number = stage.batch // distributed.world()
            draws = self._draws(step, KNOWN_MOTION)
            synthetic = self.config.data.synthetic
            pairs = compose_pairs(self.photos, number, stage.crop, stage.max_motion, draws, synthetic)
            made |= {
                "known1": pairs.img1,
                "known2": pairs.img2,
                "truth": pairs.flow,
                "visible": pairs.visible,
            }
        if self.images is not None:
            images = self.images[self._picks(stage.image_batch, step, len(self.images))]
            area, draws = self.config.data.view_min_area, self._draws(step, VIEWS)
            made["view1"], made["view2"] = two_views(images, stage.image_crop, area, draws)
        return made

    def _picks(self, number: int, step: int, of: int) -> Tensor:
        """This process's part of images that are all different in the whole batch."""
        whole = Draws((self.config.train.seed, step, IMAGES), self.device).distinct(number, of)
        return whole.chunk(distributed.world())[distributed.rank()]

    def _draws(self, step: int, kind: int) -> Draws:
        return Draws((self.config.train.seed, step, kind, distributed.rank()), self.device)


def _held(images: ImageSet, cut: Callable[[np.ndarray], np.ndarray], device: torch.device) -> Tensor:
    """All images, cut to one size, in the device's memory: uint8 (N, 3, H, W)."""
    with ThreadPoolExecutor() as pool:
        made = pool.map(lambda i: cut(images[i]), range(len(images)))
        arrays = np.stack(list(tqdm(made, "pictures", len(images), mininterval=5)))
    return torch.from_numpy(arrays).to(device).permute(0, 3, 1, 2).contiguous()
