"""The commands `mcjepa-client video` and `mcjepa-client batch`."""

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, get_args

from mcjepa_client._client import Client
from mcjepa_client._errors import McjepaError
from mcjepa_client._results import Quality
from mcjepa_client._streams import complain, say
from mcjepa_client._video.batch import Entry, find_entries, run_batch, table
from mcjepa_client._video.clips import DEFAULT_CLIP_FRAMES
from mcjepa_client._video.job import DEFAULT_IN_FLIGHT, DEFAULT_PATIENCE
from mcjepa_client._video.names import printable
from mcjepa_client._video.overlay import View
from mcjepa_client._video.plan import plan_video
from mcjepa_client._video.process import ProcessResult
from mcjepa_client._video.progress import ProgressBar
from mcjepa_client._video.sources import DEFAULT_FPS
from mcjepa_client._video.store import FlowStorage


class BatchError(McjepaError):
    """Videos of a batch failed; `is_unreachable` when it ended early because no server could be reached."""

    def __init__(self, message: str, is_unreachable: bool) -> None:
        super().__init__(message)
        self.is_unreachable = is_unreachable


Add = Callable[[str, str], argparse.ArgumentParser]
Connect = Callable[[argparse.Namespace], Client]
_NO_OVERLAY = "none"


def add_commands(add: Add, connect: Connect) -> None:
    """Add both commands; `add` makes a parser of a name and a line of help."""
    video = add("video", "compute flow and embeddings of a whole video into a folder; killed, it goes on")
    video.add_argument(
        "source", metavar="IN", help="video file, folder of images, or pattern of images in quotes"
    )
    video.set_defaults(command=lambda arguments: _video(arguments, connect))
    batch = add("batch", "the same for many videos, whatever becomes of each, with a summary")
    batch.add_argument(
        "source",
        type=Path,
        metavar="FOLDER|MANIFEST",
        help="folder, searched with its subfolders, or text file with one path on a line",
    )
    batch.set_defaults(command=lambda arguments: _batch(arguments, connect))
    for parser in (video, batch):
        _add_options(parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("-o", "--output", type=Path, required=True, metavar="DIR", help="folder to make")
    option(
        "--flow-format",
        choices=get_args(FlowStorage),
        default="zarr",
        help="one float16 store (zarr, the default), or a file for each frame",
    )
    option(
        "--overlay",
        choices=(*get_args(View), _NO_OVERLAY),
        default="overlay",
        help="video of the flow, over the frames (the default) or beside them",
    )
    option("--stride", type=int, default=1, metavar="N", help="take every N-th frame")
    option("--start", type=float, metavar="S", help="skip what is before this second")
    option("--stop", type=float, metavar="S", help="stop before this second")
    option("--max-side", type=int, metavar="PX", help="compute at most at this longer side")
    option("--quality", choices=get_args(Quality), help="how much is computed (default: the server's)")
    option("--direction", choices=("forward", "both"), default="forward", help="both: keep the way back too")
    option("--occlusion", action="store_true", help="keep masks of hidden pixels too")
    option(
        "--fps",
        type=float,
        default=DEFAULT_FPS,
        metavar="N",
        help="of image files, 1/3600 to 1000 (default %(default)g)",
    )
    option(
        "--clip-frames",
        type=int,
        default=DEFAULT_CLIP_FRAMES,
        metavar="N",
        help="frames of a request (default %(default)d)",
    )
    option(
        "--in-flight",
        type=int,
        default=DEFAULT_IN_FLIGHT,
        metavar="N",
        help="requests under way per server (default %(default)d)",
    )
    option(
        "--patience",
        type=float,
        default=DEFAULT_PATIENCE,
        metavar="SECONDS",
        help="wait this long for servers that are busy or gone (default %(default)g)",
    )
    option("--overwrite", action="store_true", help="start over, and replace results that are there")
    option("--dry-run", action="store_true", help="say what would be done, and compute nothing")


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `Client.process` that both commands have."""
    names = ["stride", "start", "stop", "max_side", "quality", "direction", "occlusion", "fps", "clip_frames"]
    return {
        "flow": arguments.flow_format,
        "overlay": None if arguments.overlay == _NO_OVERLAY else arguments.overlay,
        **{name: getattr(arguments, name) for name in names},
    }


def _video(arguments: argparse.Namespace, connect: Connect) -> None:
    if arguments.dry_run:
        say(str(plan_video(arguments.source, arguments.output, **_settings(arguments))))
        return
    with connect(arguments) as client:
        result = _process(client, arguments, arguments.source, arguments.output, Path(arguments.source).name)
    say(_describe(result))


def _describe(result: ProcessResult) -> str:
    if result.was_done:
        return f"{result.folder}: was done already, {result.frames} frames"
    return f"{result.folder}: {result.frames} frames, {result.frames - 1} flows"


def _process(
    client: Client, arguments: argparse.Namespace, source: str | Path, out: Path, name: str
) -> ProcessResult:
    with closing(ProgressBar(printable(name), sys.stderr)) as progress, _warnings_as_lines():
        return client.process(
            source,
            out,
            **_settings(arguments),
            in_flight=arguments.in_flight,
            patience=arguments.patience,
            overwrite=arguments.overwrite,
            progress=progress,
        )


def _batch(arguments: argparse.Namespace, connect: Connect) -> None:
    """Raises BatchError in the end when a video failed."""
    entries = find_entries(arguments.source, arguments.output)
    if arguments.dry_run:
        _dry_run(entries, arguments)
        return
    with connect(arguments) as client:

        def process(entry: Entry) -> ProcessResult:
            return _process(client, arguments, entry.source, arguments.output / entry.name, entry.name)

        outcomes = []
        for outcome in run_batch(entries, process):
            outcomes.append(outcome)
            if outcome.message:
                complain(f"{outcome.name}: {outcome.message}")
    say(table(outcomes))
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed:
        raise BatchError(f"{len(failed)} of {len(entries)} videos failed", failed[-1].is_unreachable)


def _dry_run(entries: list[Entry], arguments: argparse.Namespace) -> None:
    for entry in entries:
        try:
            plan = str(plan_video(entry.source, arguments.output / entry.name, **_settings(arguments)))
        except (McjepaError, OSError) as error:
            plan = f"{printable(entry.name)}: {error}"
        say(plan)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Show warnings as they come, as the other messages of the command."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: complain(f"warning: {message}")
        yield
