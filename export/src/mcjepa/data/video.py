"""Pairs of video frames from video files, frame folders and tars of frame folders, by index."""

import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mcjepa.data.files import FileRef, TolerantReader, list_images, natural_key
from mcjepa.data.video_cache import VIDEO_SUFFIXES, decode_once, shrink


class FrameSequence(NamedTuple):
    """Consecutive frames of one video or frame folder."""

    name: str
    frames: list[FileRef]


class FramePairs:
    """Frame pairs by index; both frames of a pair come from one sequence.

    Attributes:
        sequences: what the pairs are taken from, each of at least two frames.
        skipped: name -> reason of every video or frame that turned out unreadable; each was logged once.
    """

    def __init__(
        self, sequences: Sequence[FrameSequence], reader: TolerantReader, short_side: int, max_gap: int
    ) -> None:
        self.sequences = list(sequences)
        self.skipped = reader.skipped
        self._reader = reader
        self._short_side = short_side
        self._max_gap = max_gap
        self._ends = np.cumsum([len(sequence.frames) - 1 for sequence in sequences])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Two consecutive frames (img1, img2), each uint8 RGB (H, W, 3); see `pair`."""
        return self.pair(index, 1)

    def pair(self, index: int, gap: int) -> tuple[np.ndarray, np.ndarray]:
        """The first frame of pair `index` and the one `gap` later, at most the last of its sequence.

        In place of a pair with an unreadable frame comes the next good one. Raises IndexError, ValueError for
        a gap outside 1 .. max_gap or where no pair at all is readable.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        if not 1 <= gap <= self._max_gap:
            raise ValueError(f"gap is {gap}, allowed are 1 to {self._max_gap}")
        for step in range(len(self)):
            frames = self._read((index + step) % len(self), gap)
            if frames is not None:
                return frames
        raise ValueError(f"none of {len(self)} pairs is readable, the first is of {self.sequences[0].name}")

    def _read(self, index: int, gap: int) -> tuple[np.ndarray, np.ndarray] | None:
        number = int(np.searchsorted(self._ends, index, side="right"))
        frames = self.sequences[number].frames
        first = index - int(self._ends[number]) + len(frames) - 1
        second = min(first + gap, len(frames) - 1)
        img1, img2 = self._reader.read(frames[first]), self._reader.read(frames[second])
        if img1 is None or img2 is None:
            return None
        if img1.shape != img2.shape:
            self._reader.skip(f"{frames[first]} with {frames[second].name}", "the frames differ in size")
            return None
        return shrink(img1, self._short_side), shrink(img2, self._short_side)


def open_pairs(paths: Sequence[Path], cache: Path, short_side: int, max_gap: int = 1) -> FramePairs:
    """Open video files, folders and .tar files as one set of frame pairs.

    A folder is searched for video files and for folders of frames; a frame folder, on disk or in a tar, is
    one sequence in numerical order, or several where names differ before the number at their end. Frames
    whose short side exceeds `short_side` px are scaled down to it. A video is decoded into `cache` when first
    seen; a damaged one is kept as far as it is readable. Raises FileNotFoundError for a missing path,
    ValueError for a file of another kind or a set without any pair.
    """
    if short_side < 1 or max_gap < 1:
        raise ValueError(f"short_side is {short_side} and max_gap {max_gap}, both must be at least 1")
    reader = TolerantReader()
    found = [item for path in paths for item in _sequences(Path(path), Path(cache), short_side, reader)]
    usable = [sequence for sequence in found if len(sequence.frames) > 1]
    if not usable:
        raise ValueError(f"no frame pairs in {', '.join(map(str, paths)) or 'an empty list of paths'}")
    return FramePairs(usable, reader, short_side, max_gap)


def _sequences(path: Path, cache: Path, short_side: int, reader: TolerantReader) -> Iterator[FrameSequence]:
    for video in _videos(path):
        folder, problem = decode_once(video, cache, short_side)
        if problem:
            reader.skip(str(video), problem)
        if folder.is_dir():
            yield FrameSequence(str(video), list_images(folder))
    if not _is_video(path):
        for name, frames in groupby(sorted(_own_frames(path, cache), key=_order), key=_sequence_name):
            yield FrameSequence(f"{path}/{name}", list(frames))


def _sequence_name(file: FileRef) -> str:
    """Folder and name without the number at its end.

    KITTI and HD1K (000000_10.png) and FlyingChairs (00001_img1.ppm) keep all frames in one folder. Where a
    name ends in no number, the folder is the sequence.
    """
    folder, _, base = file.name.rpartition("/")
    stem = base.rpartition(".")[0]
    prefix = stem.rstrip("0123456789")
    return f"{folder}/{prefix}" if prefix != stem else f"{folder}/"


def _order(file: FileRef) -> tuple[object, object]:
    """Sequences one after the other, each in numerical order."""
    return natural_key(_sequence_name(file)), natural_key(file.name)


def _own_frames(path: Path, cache: Path) -> list[FileRef]:
    """Frames in a folder or a tar, without those of a cache that was put into that folder."""
    files = list_images(path)
    path, cache = path.resolve(), cache.resolve()
    if path not in cache.parents:
        return files
    inside = f"{cache.relative_to(path).as_posix()}/"
    return [file for file in files if not file.name.startswith(inside)]


def _videos(path: Path) -> list[Path]:
    if _is_video(path):
        return [path]
    inside = (Path(parent) / name for parent, _, names in os.walk(path) for name in names)
    return sorted((file for file in inside if _is_video(file)), key=lambda file: natural_key(str(file)))


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and path.is_file() and not path.name.startswith(".")
