"""The two views of VICReg: random changes to pictures of any size.

Every picture is uint8 RGB (H, W, 3). All randomness comes from the generator given.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

REFERENCE_SIZE = 224  # px; the blur of the paper is stated at this size


class ViewRecipe(NamedTuple):
    """How likely one view is blurred and solarized."""

    blur: float
    solarize: float


# The asymmetric pair of BYOL (Grill et al. 2020, table 6), used by VICReg (Bardes et al. 2022, appendix).
FIRST_VIEW = ViewRecipe(blur=1.0, solarize=0.0)
SECOND_VIEW = ViewRecipe(blur=0.1, solarize=0.2)


def two_views(
    img: np.ndarray, rng: np.random.Generator, size: int, min_area: float = 0.08
) -> tuple[np.ndarray, np.ndarray]:
    """Two random views of one image, each uint8 RGB (size, size, 3), of min_area to 1 of its area."""
    return _view(img, rng, size, min_area, FIRST_VIEW), _view(img, rng, size, min_area, SECOND_VIEW)


def _view(
    img: np.ndarray, rng: np.random.Generator, size: int, min_area: float, recipe: ViewRecipe
) -> np.ndarray:
    view = random_resized_crop(img, rng, size, min_area)
    if rng.random() < 0.5:
        view = cv2.flip(view, 1)
    if rng.random() < 0.8:
        view = colour_jitter(view, rng)
    if rng.random() < 0.2:
        view = _grey(view)
    if rng.random() < recipe.blur:
        view = _blur(view, rng.uniform(0.1, 2.0) * size / REFERENCE_SIZE)
    if rng.random() < recipe.solarize:
        view = np.where(view < 128, view, 255 - view)
    return view


def random_resized_crop(
    img: np.ndarray, rng: np.random.Generator, size: int, min_area: float = 0.08
) -> np.ndarray:
    """A crop of min_area to 1 of the area and aspect 3/4 to 4/3, resized to (size, size, 3)."""
    x, y, width, height = _crop_box(img.shape[1], img.shape[0], rng, min_area)
    shrinks = width * height > size * size
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(img[y : y + height, x : x + width], (size, size), interpolation=how)


def _crop_box(
    img_width: int, img_height: int, rng: np.random.Generator, min_area: float
) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = img_width * img_height * rng.uniform(min_area, 1.0)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        width = max(1, round(math.sqrt(area * aspect)))
        height = max(1, round(math.sqrt(area / aspect)))
        if width <= img_width and height <= img_height:
            x, y = rng.integers(0, (img_width - width + 1, img_height - height + 1))
            return int(x), int(y), width, height
    side = min(img_width, img_height)  # a very long image: its central square
    return (img_width - side) // 2, (img_height - side) // 2, side, side


def colour_jitter(img: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness 0.4, contrast 0.4, saturation 0.2 and hue 0.1, in random order."""
    brightness, contrast, saturation, hue = rng.uniform((0.6, 0.6, 0.8, -0.1), (1.4, 1.4, 1.2, 0.1))
    for step in rng.permutation(4):
        if step == 0:
            img = _scale_about(img, brightness, 0.0)
        elif step == 1:
            img = _scale_about(img, contrast, cv2.mean(cv2.cvtColor(img, cv2.COLOR_RGB2GRAY))[0])
        elif step == 2:
            img = cv2.addWeighted(img, saturation, _grey(img), 1 - saturation, 0)
        else:
            img = _turn_hue(img, hue)
    return img


def _scale_about(img: np.ndarray, factor: float, pivot: float) -> np.ndarray:
    return cv2.addWeighted(img, factor, img, 0, (1 - factor) * pivot)  # rounds and saturates


def _grey(img: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(img, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def _turn_hue(img: np.ndarray, turn: float) -> np.ndarray:
    hsv = cv2.cvtColor(img, cv2.COLOR_RGB2HSV_FULL)  # hue in 256 steps: uint8 wraps as an angle does
    hsv[..., 0] += np.uint8(round(turn * 256) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def _blur(img: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(img, (0, 0), sigma)
