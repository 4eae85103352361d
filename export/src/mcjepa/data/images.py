"""Still images, labelled or not, from folders and tar archives, as one random-access set."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import cv2
import numpy as np

from mcjepa.data.files import FileRef, TolerantReader, list_images


class ImageSet:
    """Images by index, with class labels where they lie in class folders.

    Attributes:
        classes: class names, sorted; empty for an unlabelled set.
        labels: int64 (N,) indices into `classes`, or None for an unlabelled set.
        skipped: name -> reason of every file that turned out unreadable; each was logged once.
    """

    def __init__(self, files: Sequence[FileRef], classes: Sequence[str] | None = None) -> None:
        names = [Path(file.name).parent.name for file in files]
        labelled = all(names) and (classes is not None or len(set(names)) > 1)
        self._files = list(files)
        self.classes = list(classes or sorted(set(names))) if labelled else []
        self.labels = _number(names, self.classes) if labelled else None
        self._reader = TolerantReader()
        self.skipped = self._reader.skipped

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> np.ndarray:
        """Image `index`, uint8 RGB (H, W, 3).

        In place of an unreadable file comes the next readable one of the same class (of any class only where
        the whole class is unreadable), so that the label stays true. Raises ValueError where no file at all
        is readable.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        for candidate in self._candidates(index % len(self)):
            img = self._reader.read(self._files[candidate])
            if img is not None:
                return img
        raise ValueError(f"none of {len(self)} images is readable, the first is {self._files[0]}")

    def label(self, index: int) -> int:
        """Class number of image `index`. Raises ValueError for an unlabelled set."""
        if self.labels is None:
            raise ValueError("this image set has no labels: its images do not lie in class folders")
        return int(self.labels[index])

    def _candidates(self, index: int) -> Iterator[int]:
        yield index
        following = (np.arange(1, len(self)) + index) % len(self)
        if self.labels is None:
            yield from following.tolist()
            return
        same_class = self.labels[following] == self.labels[index]
        yield from chain(following[same_class].tolist(), following[~same_class].tolist())


def open_images(paths: Sequence[Path], classes: Sequence[str] | None = None) -> ImageSet:
    """Open folders (searched recursively) and .tar files, one after the other, as one set.

    The label of an image is the name of the folder it lies in, where every image lies in a folder below its
    path and there are at least two such names; all paths share one class list. Give `classes` of another set
    to number the labels as that set does. Raises FileNotFoundError for a missing path, ValueError for a set
    without images or a class that `classes` does not name.
    """
    files = [file for path in paths for file in list_images(Path(path))]
    if not files:
        raise ValueError(f"no images in {', '.join(map(str, paths)) or 'an empty list of paths'}")
    return ImageSet(files, classes)


def cut_to(img: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of an image, scaled until it just covers `size` (H, W)."""
    (h, w), (height, width) = img.shape[:2], size
    scale = max(height / h, width / w)
    grown = max(width, round(w * scale)), max(height, round(h * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    img = cv2.resize(np.ascontiguousarray(img), grown, interpolation=how)
    y, x = (img.shape[0] - height) // 2, (img.shape[1] - width) // 2
    return img[y : y + height, x : x + width]


def _number(names: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    number = {name: index for index, name in enumerate(classes)}
    if unknown := sorted(set(names) - number.keys()):
        raise ValueError(
            f"{len(unknown)} classes are not in the list of {len(number)}, such as {unknown[0]!r}"
        )
    return np.array([number[name] for name in names], np.int64)
