"""What `Client.process` would do, without doing it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mcjepa_client._errors import VideoError
from mcjepa_client._video.folder import JOURNAL_FILE, Folder
from mcjepa_client._video.frames import SourceInfo
from mcjepa_client._video.job import Outputs, VideoJob, VideoOptions, plan_job
from mcjepa_client._video.process import describe_job
from mcjepa_client._video.sources import VideoInput

_BYTES_PER_PIXEL = 4  # of a stored flow, before compression


@dataclass(frozen=True)
class Plan:
    """What is known beforehand of one video; as text, one line."""

    name: str
    out: Path
    info: SourceInfo
    frames: int | None
    state: str

    def __str__(self) -> str:
        size = f"{self.info.width}x{self.info.height}" if self.info.width else "unknown size"
        frames = f"about {self.frames} frames" if self.frames else "frames unknown"
        return f"{self.name}: {size}, {frames}{self._space()} -> {self.out}: {self.state}"

    def _space(self) -> str:
        if not (self.frames and self.info.width and self.info.height):
            return ""
        pixels = self.frames * self.info.width * self.info.height
        return f", at most {pixels * _BYTES_PER_PIXEL / 1e6:.0f} MB of flow"


def plan_video(
    source: VideoInput,
    out: Path,
    *,
    stride: int,
    start: float | None,
    stop: float | None,
    fps: float,
    flow: Any,
    overlay: Any,
    **options: Any,
) -> Plan:
    """Raises what `Client.process` would, as far as that can be known without a server."""
    job = plan_job(source, stride, start, stop, fps, VideoOptions(**options))
    folder = Folder(out)
    header = describe_job(job, Outputs(flow, overlay))
    info = job.source.info()
    return Plan(
        job.source.name, folder.out, _at_start(job, info), job.selection.count(info), _state(folder, header)
    )


def _at_start(job: VideoJob, info: SourceInfo) -> SourceInfo:
    """With the size of the first frame that is wanted, which may differ from that of the first of all."""
    if not job.selection.start or info.width is None:
        return info
    try:
        height, width = next(job.selection.of(job.source)).load().shape[:2]
    except (VideoError, StopIteration):
        return info
    return replace(info, width=width, height=height)


def _state(folder: Folder, header: dict[str, Any]) -> str:
    if folder.finished(header) is not None:
        return "is done already"
    journal = folder.work / JOURNAL_FILE
    if not journal.is_file():
        return "new"
    whole = journal.read_bytes().rpartition(b"\n")[0]
    done = sum(len(json.loads(line).get("frames", [])) for line in whole.splitlines())
    return f"goes on after {done} frames"
