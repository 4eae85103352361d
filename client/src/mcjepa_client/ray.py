"""Videos by the thousand over a Ray cluster: an actor for Ray Data, which looks after nodes and retries.

    import ray
    from mcjepa_client.ray import process_videos

    videos = ray.data.from_items([{"path": "/data/a.mp4", "out": "/results/a"}])
    for row in process_videos(videos, servers=["http://10.0.0.1:8000"], concurrency=4).iter_rows():
        print(row["path"], row["status"], row["error"])

Needs the extra [ray] on every node, and folders that all of them reach under the same names.
"""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from mcjepa_client._client import Client
from mcjepa_client._errors import ConnectionFailedError, InputError, McjepaError, ServiceUnavailableError
from mcjepa_client._extras import require
from mcjepa_client._own_server import SERVER_COMMAND, OwnServer
from mcjepa_client._video.journal import FolderInUseError
from mcjepa_client._video.process import ProcessResult

if TYPE_CHECKING:
    from ray.data import Dataset

Row = dict[str, Any]

# Seconds: what a node that was cut off may still be writing ends soon after its successor has begun.
_IN_USE_PATIENCE = 120.0
_IN_USE_INTERVAL = 1.0


class VideoProcessor:
    """Ray Data actor: a row with a video and an output folder in, the row with what became of it out.

    Each row is handed to `Client.process`, so what an actor that died has left is taken up by the next one.
    A video that fails does not end the job: its row says why.

    Args:
        servers: addresses to share the work among, in turn; None starts an mcjepa-server of its own, which
            is started again when it dies and ends with the actor. That needs mcjepa-server and its models on
            the node.
        settings: environment variables of that server, such as MCJEPA_MODEL_REPOSITORY. It uses as many
            threads as the actor has CPUs unless MCJEPA_INTRA_OP_THREADS is among them.
        command: what starts that server.
        options: keyword arguments of `Client.process`, for every video.

    Raises:
        ConnectionFailedError: its own server did not start.
    """

    def __init__(
        self,
        servers: str | Sequence[str] | None = None,
        settings: Mapping[str, str] | None = None,
        command: Sequence[str] = SERVER_COMMAND,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._resources = ExitStack()
        self._options = dict(options or {})
        self._has_own_server = servers is None
        if servers is None:
            # Ray sets the variable to the number of CPUs of the actor.
            threads = {"MCJEPA_INTRA_OP_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
            server = OwnServer(command, {**threads, **(settings or {})})
            self._resources.callback(server.close)
            self._client = server.client()
        else:
            self._client = Client(servers)
        self._resources.callback(self._client.close)

    def __call__(self, row: Row) -> Row:
        """One video.

        Args:
            row: `path`, the video, and `out`, the folder for its results; further columns are handed on.

        Returns:
            The row with `status` ("done", "skipped" where the results were there already, or "failed"),
            `frames` (how many could be read) and `error` (why it failed, else empty).

        Raises:
            InputError: a column is missing.
            ConnectionFailedError, ServiceUnavailableError: `servers` are gone for longer than `patience`, so
                that no other video could be computed either.
        """
        missing = [name for name in ("path", "out") if not isinstance(row.get(name), str)]
        if missing:
            raise InputError(f"row: expected text in the column {missing[0]}, got {row}")
        try:
            result = self._process(row["path"], row["out"])
        except (McjepaError, OSError) as error:
            gone = isinstance(error, ConnectionFailedError | ServiceUnavailableError)
            if gone and not self._has_own_server:
                raise
            return {**row, "status": "failed", "frames": getattr(error, "frames", 0), "error": str(error)}
        status = "skipped" if result.was_done else "done"
        return {**row, "status": status, "frames": result.frames, "error": ""}

    def _process(self, path: str, out: str) -> ProcessResult:
        """Waits for another process that is at the same video."""
        give_up = time.monotonic() + _IN_USE_PATIENCE
        while True:
            try:
                return self._client.process(path, out, **self._options)
            except FolderInUseError:
                if time.monotonic() > give_up:
                    raise
            time.sleep(_IN_USE_INTERVAL)

    def close(self) -> None:
        """End its own server and close the connections."""
        self._resources.close()

    def __del__(self) -> None:
        self.close()


def process_videos(
    dataset: "Dataset",
    *,
    servers: str | Sequence[str] | None = None,
    concurrency: int = 1,
    num_cpus: float = 1,
    settings: Mapping[str, str] | None = None,
    command: Sequence[str] = SERVER_COMMAND,
    **options: Any,
) -> "Dataset":
    """Map a Ray dataset of videos to what became of each, on as many actors as `concurrency` says.

    An actor or a node that dies is replaced, and its video goes on where it was. No video is computed before
    the result is consumed. Run again, the job goes on too: what is done is skipped.

    Args:
        dataset: rows with `path` and `out`: see `VideoProcessor`. They are all read at once, into memory.
        concurrency: actors; each has one video at a time.
        num_cpus: CPUs that Ray keeps for each.
        servers, settings, command: see `VideoProcessor`.
        options: keyword arguments of `Client.process`, such as stride=2 or overlay=None.

    Raises:
        MissingExtraError: ray is not installed.
    """
    data = require("ray.data", "ray")
    # One video is one block and one task. The blocks are the driver's, so none is lost with a node, and none
    # has to be made by a task that would wait for a CPU while the actors have them all.
    rows = dataset.take_all()
    videos = data.from_items(rows, override_num_blocks=len(rows) or None)
    arguments = {"servers": servers, "settings": settings, "command": command, "options": options}
    mapped: Dataset = videos.map(
        VideoProcessor,
        fn_constructor_kwargs=arguments,
        compute=data.ActorPoolStrategy(
            min_size=1,  # where a node was lost, an idle actor makes room for one that must start again
            initial_size=concurrency,
            max_size=concurrency,
            max_tasks_in_flight_per_actor=1,  # a video must not wait for one actor while another is idle
        ),
        num_cpus=num_cpus,
    )
    return mapped
