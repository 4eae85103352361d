"""The pairs of a step in one batch of frames: known motion, a student's crop, video in both directions."""

from __future__ import annotations

import torch
from torch import Tensor

from mcjepa import losses
from mcjepa.data.batches import Batch


def pairs(feats: Tensor, known: int, student: int, video: int) -> tuple[Tensor, Tensor]:
    """Features of frames, kind by kind the first ones before the second ones -> those of the pairs' first and
    second frames: known, student, video, video backward.
    """
    k1, k2, s1, s2, v1, v2 = feats.split([known, known, student, student, video, video])
    return torch.cat([k1, s1, v1, v2]), torch.cat([k2, s2, v2, v1])


def video_batch(
    batch: Batch, feats1: list[Tensor], feats2: list[Tensor], flow: Tensor, known: int, video: int
) -> losses.VideoBatch:
    img1, img2 = batch["video1"].float() / 255, batch["video2"].float() / 255
    forward, backward = flow[known : known + video], flow[known + video :]
    return losses.VideoBatch(
        img1=torch.cat([img1, img2]),
        img2=torch.cat([img2, img1]),
        feats1=[f[known:].float() for f in feats1],
        feats2=[f[known:].float() for f in feats2],
        flow12=torch.cat([forward, backward]),
        flow21=torch.cat([backward, forward]),
    )


def count(batch: Batch, key: str) -> int:
    return batch[key].shape[0] if key in batch else 0
