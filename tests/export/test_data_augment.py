"""Augmentation: shapes, determinism, ranges, and that light changes move nothing."""

import colorsys

import cv2
import numpy as np
import pytest
from mcjepa.data import augment


def picture(height: int = 64, width: int = 64, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (1, 300), (300, 1), (375, 500)])
def test_views_have_the_size_asked_for(shape):
    rng = np.random.default_rng(0)
    for _ in range(20):
        for view in augment.two_views(picture(*shape), rng, 32):
            assert view.shape == (32, 32, 3)
            assert view.dtype == np.uint8


def test_the_same_seed_gives_the_same_views_and_leaves_the_image_alone():
    img = picture()
    before = img.copy()
    first, again, other = (augment.two_views(img, np.random.default_rng(seed), 48) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(img, before)


def test_only_the_first_view_is_always_blurred_and_only_the_second_solarized(monkeypatch):
    calls = {"blur": 0}

    def blur(img: np.ndarray, sigma: float) -> np.ndarray:
        assert 0.1 * 112 / 224 <= sigma <= 2.0 * 112 / 224
        calls["blur"] += 1
        return img

    monkeypatch.setattr(augment, "_blur", blur)
    white = np.full((20, 20, 3), 255, np.uint8)
    rng = np.random.default_rng(0)
    views = [augment.two_views(white, rng, 112) for _ in range(300)]
    assert 300 + 15 <= calls["blur"] <= 300 + 50  # 100 % of the first views, 10 % of the second
    assert all(first.mean() > 128 for first, _ in views)
    assert 35 <= sum(second.mean() < 128 for _, second in views) <= 90  # 20 %


def test_crop_boxes_keep_to_area_and_aspect_and_lie_inside():
    rng = np.random.default_rng(0)
    boxes = np.array([augment._crop_box(400, 300, rng, 0.08) for _ in range(500)])
    x, y, width, height = boxes.T
    assert (x >= 0).all()
    assert (y >= 0).all()
    assert (x + width <= 400).all()
    assert (y + height <= 300).all()
    area = width * height / 120_000
    assert area.min() >= 0.079
    assert area.min() < 0.12
    assert area.max() > 0.85
    aspect = width / height
    assert aspect.min() >= 0.74
    assert aspect.max() <= 1.35


def test_hue_turn_agrees_with_colorsys():
    rgb = np.random.default_rng(0).integers(0, 256, (40, 1, 3), np.uint8)
    turned = augment._turn_hue(rgb, 0.125)  # 32 of 256 steps
    for pixel, got in zip(rgb[:, 0], turned[:, 0], strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255.0))
        want = 255 * np.array(colorsys.hsv_to_rgb((hue + 0.125) % 1, saturation, value))
        assert np.abs(got - want).max() <= 9  # 1.5 steps of an 8-bit hue


def test_brightness_and_contrast_agree_with_their_formulas():
    img = picture()
    np.testing.assert_allclose(augment._scale_about(img, 0.6, 0), 0.6 * img, atol=0.51)
    want = np.clip(1.4 * (img.astype(float) - 100) + 100, 0, 255)
    np.testing.assert_allclose(augment._scale_about(img, 1.4, 100), want, atol=0.51)
