"""Fit the whitening of the embedding to images, without their labels."""

from __future__ import annotations

import numpy as np
import torch

from mcjepa.data.images import ImageSet
from mcjepa.model import MCJEPA
from mcjepa.model.content import pool
from mcjepa.pictures import to_square, to_tensor

MOST, BATCH = 4096, 64  # images looked at, and at a time


@torch.no_grad()
def fit_whitening(model: MCJEPA, images: ImageSet) -> None:
    """Fit `model.whitening` to at most MOST of the images, spread evenly, as `mcjepa_embed` sees them."""
    was_training, content = model.training, model.config.content
    model.eval()
    picks = np.linspace(0, len(images) - 1, min(MOST, len(images))).round().astype(int)
    pooled = []
    for start in range(0, len(picks), BATCH):
        batch = to_tensor(
            [to_square(images[int(i)], content.image_size) for i in picks[start : start + BATCH]]
        )
        pooled.append(pool(model.encode(batch.to(model.normalise.mean.device)), content.levels))
    model.whitening.fit(torch.cat(pooled), content.whitening)
    model.train(was_training)
