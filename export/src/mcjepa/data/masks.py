"""Masks of class or object numbers, and the two layouts that hold them: image + mask folders, and DAVIS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from mcjepa.data.files import FileRef, decode_rgb, list_images
from mcjepa.files import write_atomic

IGNORE = 255  # a number that stands for no class and no object


def read_mask(path: Path) -> np.ndarray:
    """A mask, uint8 (H, W), from a PNG that holds numbers: of a palette, or grey.

    Raises OSError where it cannot be read, ValueError for a picture of another kind.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("P", "L"):
                raise ValueError(
                    f"{path}: a PNG of numbers (palette or 8-bit grey) is needed, not {picture.mode}"
                )
            return np.array(picture, np.uint8)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: cannot be decoded as an image") from error


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a mask, uint8 (H, W), as a grey PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, cv2.imencode(".png", mask)[1].tobytes())


@dataclass(frozen=True)
class LabelledImage:
    """An image and the mask of its classes; nothing is read before it is asked for."""

    image: FileRef
    mask: Path

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """(image uint8 RGB (H, W, 3), mask uint8 (H, W)). Raises ValueError where they differ in size."""
        img, mask = decode_rgb(self.image.read()), read_mask(self.mask)
        if img.shape[:2] != mask.shape:
            raise ValueError(f"{self.mask}: {mask.shape}, but its image is {img.shape[:2]}")
        return img, mask


def open_labelled(images: Path, masks: Path) -> list[LabelledImage]:
    """The images of a folder or tar that have a mask, MASKS/NAME.png for IMAGES/NAME.*; subfolders alike.

    Images without a mask are left out (VOC labels a part of its images). Raises ValueError where none has
    one.
    """
    pairs = [LabelledImage(ref, masks / Path(ref.name).with_suffix(".png")) for ref in list_images(images)]
    found = [pair for pair in pairs if pair.mask.is_file()]
    if not found:
        raise ValueError(f"{masks}: no mask for any of the {len(pairs)} images in {images}")
    return found


@dataclass(frozen=True)
class MaskedVideo:
    """A video of DAVIS: its frames, and a mask of object numbers for each."""

    name: str
    frames: Sequence[Path]
    masks: Sequence[Path]

    def frame(self, t: int) -> np.ndarray:
        """Frame t, uint8 RGB (H, W, 3)."""
        try:
            return decode_rgb(self.frames[t].read_bytes())
        except ValueError as error:
            raise ValueError(f"{self.frames[t]}: {error}") from error

    def mask(self, t: int) -> np.ndarray:
        """Object numbers at frame t, uint8 (H, W); 0 is background, as is what DAVIS leaves open (255)."""
        mask = read_mask(self.masks[t])
        return np.where(mask == IGNORE, np.uint8(0), mask)


def open_davis(root: Path, split: str | None = None) -> list[MaskedVideo]:
    """The videos of a folder laid out as DAVIS: JPEGImages/480p/SEQ/*.jpg and Annotations/480p/SEQ/*.png.

    split: the videos that ImageSets/2017/SPLIT.txt names; None for all that are annotated. Raises
    FileNotFoundError for a missing folder or file, ValueError for a video with fewer than three frames, or
    without a mask for every frame.
    """
    images, annotations = root / "JPEGImages" / "480p", root / "Annotations" / "480p"
    for folder in (images, annotations):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder}: no such folder; DAVIS has JPEGImages/480p and Annotations/480p"
            )
    names = sorted(p.name for p in annotations.iterdir() if p.is_dir())
    if split is not None:
        names = (root / "ImageSets" / "2017" / f"{split}.txt").read_text().split()
    if not names:
        raise ValueError(f"{annotations}: holds no video")
    return [_open_video(name, images / name, annotations / name) for name in names]


def _open_video(name: str, images: Path, annotations: Path) -> MaskedVideo:
    frames = [images / ref.name for ref in list_images(images)]
    masks = [annotations / f"{frame.stem}.png" for frame in frames]
    if len(frames) < 3:
        raise ValueError(f"{images}: {len(frames)} frames, at least 3 are needed")
    if missing := [mask for mask in masks if not mask.is_file()]:
        raise ValueError(f"{missing[0]} is missing ({len(missing)} of {len(masks)} masks of {name})")
    return MaskedVideo(name, frames, masks)
