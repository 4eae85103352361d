"""From the parts that the clips left to the files of a finished folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcjepa_client._errors import InputError
from mcjepa_client._video.clips import load_shots
from mcjepa_client._video.folder import JOURNAL_FILE, VECTOR_FILE, files_of
from mcjepa_client._video.job import Outputs, Progress, VideoJob
from mcjepa_client._video.journal import Journal
from mcjepa_client._video.manifest import MANIFEST_FILE, Record, file_sha256, write_manifest
from mcjepa_client._video.overlay import Painter, Picture, View, clip_scale, write_video
from mcjepa_client._video.store import FRAME_FOLDERS, FlowStore, open_store
from mcjepa_client._video.vectors import PARQUET_FILE, write_parquet


@dataclass(frozen=True)
class Frames:
    """What is known of the selected frames, in order."""

    indices: NDArray[np.int64]
    timestamps: NDArray[np.float64]  # seconds
    percentiles: NDArray[np.float64]  # px: the 99th of the lengths in each field; one less than frames

    def __len__(self) -> int:
        return len(self.indices)


def compose(work: Path, job: VideoJob, outputs: Outputs, journal: Journal, progress: Progress) -> None:
    """Write the store's ends, the Parquet file, the overlay and, last of all, the manifest."""
    frames = _read_frames(journal)
    _check_files(work, journal)
    scale = clip_scale(frames.percentiles)
    if len(frames) > 1:
        store = open_store(work, outputs.flow)
        store.finish(frames.indices[:-1], frames.timestamps[:-1])
        if outputs.overlay is not None:
            _write_overlay(work, job, outputs.overlay, store, len(frames) - 1, scale, progress)
    size = journal.first["vector_size"]
    write_parquet(work / VECTOR_FILE, work / PARQUET_FILE, size, frames.indices, frames.timestamps)
    error = journal.last["error"]
    end = {
        "type": "end",
        "status": "partial" if error else "complete",
        "error": error,
        "frames": len(frames),
        "flows": len(frames) - 1,
        "flow_scale_px": round(scale, 4),
        "files": _other_files(work),
    }
    write_manifest(work, _records(journal, end))


def _frames(journal: Journal) -> Iterator[Record]:
    for clip in journal.clips():
        yield from clip["frames"]


def _records(journal: Journal, end: Record) -> Iterator[Record]:
    yield {**journal.header, "model": journal.first["model"]}
    for frame in _frames(journal):
        yield {"type": "frame", **frame}
    yield end


def _read_frames(journal: Journal) -> Frames:
    """The figures of all frames, in arrays: 24 bytes each."""
    count = journal.frames
    return Frames(
        np.fromiter((frame["frame"] for frame in _frames(journal)), np.int64, count),
        np.fromiter((frame["timestamp"] for frame in _frames(journal)), np.float64, count),
        np.fromiter((frame["flow_p99_px"] for frame in islice(_frames(journal), count - 1)), np.float64),
    )


def _write_overlay(
    work: Path, job: VideoJob, view: View, store: FlowStore, pairs: int, scale: float, progress: Progress
) -> None:
    target = work / f"{view}.mp4"
    if not target.exists():  # it is written whole or not at all
        painter = Painter(view, scale)
        progress("overlay", 0, pairs)
        write_video(target, _pictures(job, painter, store, pairs, progress))


def _pictures(
    job: VideoJob, painter: Painter, store: FlowStore, pairs: int, progress: Progress
) -> Iterator[Picture]:
    """The frames once more, with the flow that is stored of them."""
    for number, shot in enumerate(islice(load_shots(job.source, job.selection), pairs)):
        flow = store.read_flow(number, shot.index)
        yield Picture(shot.timestamp, painter.draw(shot.image, flow))
        progress("overlay", number + 1, pairs)


def _check_files(work: Path, journal: Journal) -> None:
    """Raises InputError unless every file is as it was written, however long ago that was."""
    for frame in _frames(journal):
        for path, digest in frame["files"].items():
            if not (work / path).is_file() or file_sha256(work / path) != digest:
                raise InputError(f"out: {work / path} is not what was written; start over with overwrite")


def _other_files(work: Path) -> dict[str, str]:
    """Checksums of the files that belong to no single frame."""
    paths = (path.relative_to(work).as_posix() for path in files_of(work, without=FRAME_FOLDERS))
    others = sorted(path for path in paths if path not in {JOURNAL_FILE, VECTOR_FILE, MANIFEST_FILE})
    return {path: file_sha256(work / path) for path in others}
