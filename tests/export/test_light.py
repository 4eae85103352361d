"""Photometric change of pairs: the light changes, nothing moves."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from mcjepa.data.draws import Draws
from mcjepa.data.light import blur, relight_pairs
from torch import Tensor


def relit(img: np.ndarray, number: int, seed: int = 0) -> list[Tensor]:
    """Both frames of pairs of an image with itself: (N, 3, H, W) uint8 twice."""
    frames = torch.from_numpy(img).permute(2, 0, 1).float().expand(number, -1, -1, -1)
    return list(relight_pairs(frames, frames, Draws((seed,), torch.device("cpu"))))


def test_both_frames_change_differently_and_nothing_moves():
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    img = cv2.GaussianBlur(noise, (0, 0), 2)
    window = cv2.createHanningWindow((128, 96), cv2.CV_64F)
    first, second = relit(img, 20)
    assert first.shape == second.shape == (20, 3, 96, 128)
    assert first.dtype == second.dtype == torch.uint8
    assert (first != second).flatten(1).any(1).all()
    shifts = []
    for frame in first.permute(0, 2, 3, 1).numpy():
        grey = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY).astype(np.float64) for f in (img, frame)]
        shifts.append(cv2.phaseCorrelate(*grey, window)[0])
    assert np.abs(shifts).max() < 0.25  # px; single frames are noisy, a bias would not average out
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.04


def test_change_is_reproducible_and_moderate(texture):
    img = texture(96, 128, 0)
    frames, again, other = relit(img, 50), relit(img, 50), relit(img, 50, seed=1)
    assert torch.equal(frames[0], again[0])
    assert not torch.equal(frames[0], other[0])
    change = (torch.cat(frames).float() - torch.from_numpy(img).permute(2, 0, 1)).abs().mean()
    assert 5 < change < 50


def test_blur_is_that_of_opencv_and_0_leaves_an_image_as_it_is(texture):
    img = texture(64, 64, 0).astype(np.float32)
    images = torch.from_numpy(img).permute(2, 0, 1).expand(2, -1, -1, -1)
    blurred = blur(images, torch.tensor([1.0, 0.0]), 1.2).permute(0, 2, 3, 1).numpy()
    wanted = cv2.GaussianBlur(img, (7, 7), 1.0, borderType=cv2.BORDER_REFLECT_101)
    np.testing.assert_allclose(blurred[0], wanted, atol=1e-2)
    np.testing.assert_array_equal(blurred[1], img)
