"""A video to a folder of results, so that nothing is lost and nothing is half done.

The work is done in OUT.partial, which becomes OUT in one step when all is there. After each clip its flow,
its embeddings and then its line in the journal are on the disk, so a run that was killed goes on after the
last line. What comes out depends on the clips alone: it is the same, byte for byte, however often it was
killed.
"""

import math
import os
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from mcjepa_client._errors import InputError, VideoError
from mcjepa_client._files import PathLike
from mcjepa_client._results import AnalyzeResult
from mcjepa_client._video.clips import Clip, Shot, load_shots
from mcjepa_client._video.compose import compose
from mcjepa_client._video.folder import JOURNAL_FILE, VECTOR_FILE, Folder
from mcjepa_client._video.images import ImageSource
from mcjepa_client._video.job import Outputs, Progress, VideoJob
from mcjepa_client._video.journal import Journal
from mcjepa_client._video.manifest import VERSION, Record, check_same, describe_source, file_sha256
from mcjepa_client._video.results import FrameResult, frame_results
from mcjepa_client._video.store import FlowStore, open_store
from mcjepa_client._video.vectors import VectorFile
from mcjepa_client.flow_io import Flow


class Asker(Protocol):
    """How clips are computed: see `Client.process`."""

    def clip_length(self, job: VideoJob, shape: tuple[int, ...]) -> int:
        """Frames of a clip, for frames of this shape."""
        ...

    def answers(
        self, job: VideoJob, skip: int, length: int
    ) -> Generator[tuple[Clip, AnalyzeResult], None, None]:
        """The clips from frame `skip` on, of `length` frames each, with their analyses."""
        ...


@dataclass(frozen=True)
class ProcessResult:
    """What `Client.process` has written.

    Attributes:
        folder: where.
        frames: selected frames of the video; there is one flow less.
        max_flow: length in px of full colour in the overlay.
        was_done: the folder held these results already; nothing was computed.
    """

    folder: Path
    frames: int
    max_flow: float
    was_done: bool


def process(
    job: VideoJob, out: PathLike, outputs: Outputs, overwrite: bool, progress: Progress, asker: Asker
) -> ProcessResult:
    """See `Client.process`."""
    folder = Folder(out)
    if overwrite:
        folder.discard()
    header = describe_job(job, outputs)
    end = folder.finished(header)
    was_done = end is not None
    if end is not None:
        folder.tidy()
    else:
        _work(job, folder, outputs, header, progress, asker)
        end = folder.finished(header)
        assert end is not None, "it has just been written"
    if end["error"]:
        raise VideoError(f"{end['error']}; {folder.out} has what was before", frames=end["frames"])
    return ProcessResult(folder.out, end["frames"], end["flow_scale_px"], was_done)


def _work(
    job: VideoJob, folder: Folder, outputs: Outputs, header: Record, progress: Progress, asker: Asker
) -> None:
    """Compute what is missing, and move it all to its place."""
    if not folder.composed(header):
        first = None if (folder.work / JOURNAL_FILE).is_file() else _first_shot(job)
        folder.work.mkdir(parents=True, exist_ok=True)
        with closing(Journal(folder.work / JOURNAL_FILE)) as journal:
            if folder.finished(header) is not None:
                folder.abandon()
                return
            if not journal.header:
                journal.append(_describe_run(job, header, first or _first_shot(job), asker))
            check_same(folder.work, journal.header, header)
            folder.remove_fragments()
            if not journal.last.get("is_last"):
                _compute(job, folder.work, outputs, journal, progress, asker)
            compose(folder.work, job, outputs, journal, progress)
            if os.name == "nt":
                journal.close()  # Windows moves no folder with open files, and has no lock to keep
            folder.publish()
    else:
        folder.publish()


def _first_shot(job: VideoJob) -> Shot:
    """The first frame that is computed. Raises VideoError if there is none."""
    shot = next(load_shots(job.source, job.selection), None)
    if shot is None:
        raise VideoError(f"{job.source.name}: there is no frame in this range", frames=0)
    return shot


def _describe_run(job: VideoJob, header: Record, first: Shot, asker: Asker) -> Record:
    """`header` with what the first frame and the server say."""
    height, width = first.image.shape[:2]
    length = asker.clip_length(job, first.image.shape)
    return {**header, "clip_frames": length, "size": [width, height], "damage": first.damage}


def _compute(
    job: VideoJob, work: Path, outputs: Outputs, journal: Journal, progress: Progress, asker: Asker
) -> None:
    """Go on after the last clip of the journal."""
    total = job.selection.count(job.source.info())
    store = open_store(work, outputs.flow)
    vectors = VectorFile(work / VECTOR_FILE, journal.frames, journal.first.get("vector_size", 0))
    progress("flow", journal.frames, total)
    length = journal.header["clip_frames"]
    with closing(vectors), closing(asker.answers(job, journal.frames, length)) as answered:
        for clip, analysis in answered:
            record = _keep(work, store, vectors, clip, analysis)
            _check_model(journal.first or record, record)
            journal.append(record)
            progress("flow", journal.frames, total)


def _keep(work: Path, store: FlowStore, vectors: VectorFile, clip: Clip, analysis: AnalyzeResult) -> Record:
    """Write what a clip gave. The record of it says where, and must be written after this."""
    frames, embeddings = [], []
    for place, result in enumerate(frame_results(clip, analysis)):  # a flow at a time: they may be large
        frames.append(_keep_frame(work, store, clip.first + place, result))
        embeddings.append(result.embedding)
    vectors.append(np.stack(embeddings))
    return {
        "frames": frames,
        "vector_size": analysis.embeddings.shape[1],
        "model": {name: analysis.meta.get(name) for name in ("model_version", "weights_sha256")},
        "is_last": clip.is_last,
        "error": str(clip.error) if clip.error else None,
    }


def _keep_frame(work: Path, store: FlowStore, number: int, result: FrameResult) -> Record:
    paths = store.write(number, result) if result.flow is not None else []
    return {
        "frame": result.index,
        "timestamp": result.timestamp,
        "flow_p99_px": None if result.flow is None else _p99(result.flow),
        "files": {path: file_sha256(work / path) for path in paths},
    }


def _p99(flow: Flow) -> float:
    """Length in px that 99 of 100 motions do not exceed."""
    return round(float(np.percentile(np.hypot(flow[..., 0], flow[..., 1]), 99)), 4)


def _check_model(first: Record, record: Record) -> None:
    """All clips must come from the same weights, on whatever server and day."""
    if first["model"] != record["model"]:
        raise InputError(
            f"the servers answer with other weights than before: {record['model']}, "
            f"earlier clips have {first['model']}; start over with overwrite, or serve those"
        )


def describe_job(job: VideoJob, outputs: Outputs) -> Record:
    """The first record of the manifest, as far as it is known beforehand."""
    selection, options = job.selection, job.options
    settings = {
        "stride": selection.stride,
        "start": selection.start,
        "stop": None if math.isinf(selection.stop) else selection.stop,
        "fps": job.source.fps if isinstance(job.source, ImageSource) else None,
        "direction": options.direction,
        "occlusion": options.occlusion,
        "max_side": options.max_side,
        **({} if options.quality is None else {"quality": options.quality}),
        "clip_frames": options.clip_frames,
        "flow": outputs.flow,
        "overlay": outputs.overlay,
    }
    source = describe_source(job.source)
    return {"type": "video", "manifest": VERSION, "source": source, "settings": settings}
