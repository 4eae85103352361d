"""Videos by the thousand over a Ray cluster: an actor for Ray Data, which looks after nodes and retries.

import ray
from mcjepa_client.ray import process_videos

videos = ray.data.from_items([{"path": "a.mp4", "out": "results/a"}, {"path": "b.mp4", "out": "results/b"}])
for row in process_videos(videos, servers=["http://10.0.0.1:8000"], concurrency=4).iter_rows():
    print(row["path"], row["status"], row["error"])

Needs mcjepa-client[ray] on every node, and folders that all of them reach.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from mcjepa_client._client import Client
from mcjepa_client._errors import InputError, McjepaError
from mcjepa_client._extras import require
from mcjepa_client._own_server import SERVER_COMMAND, OwnServer

if TYPE_CHECKING:
    from ray.data import Dataset

Row = dict[str, Any]


class VideoProcessor:
    """Ray Data actor: a row with a video and an output folder in, the row with what became of it out.

    Each row is handed to `Client.process`, so what an actor that died has left is taken up by the next one.
    A video that fails does not end the job: its row says why.

    Args:
        servers: addresses to share the work among, in turn; None starts an mcjepa-server of its own, which
            ends with the actor. That needs mcjepa-server and its models on the node.
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
            `frames` (how many the results have) and `error` (why it failed, else empty).

        Raises:
            InputError: a column is missing.
        """
        missing = [name for name in ("path", "out") if not isinstance(row.get(name), str)]
        if missing:
            raise InputError(f"row: expected text in the column {missing[0]}, got {row}")
        try:
            result = self._client.process(row["path"], row["out"], **self._options)
        except (McjepaError, OSError) as error:
            frames = getattr(error, "frames", None) or 0
            return {**row, "status": "failed", "frames": frames, "error": str(error)}
        return {
            **row,
            "status": "skipped" if result.was_done else "done",
            "frames": result.frames,
            "error": "",
        }

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

    An actor or a node that dies is replaced, and its video goes on where it was. Nothing is computed before
    the result is consumed.

    Args:
        dataset: rows with `path` and `out`: see `VideoProcessor`.
        concurrency: actors; each has one video at a time.
        num_cpus: CPUs that Ray keeps for each.
        servers, settings, command: see `VideoProcessor`.
        options: keyword arguments of `Client.process`, such as stride=2 or overlay=None.

    Raises:
        MissingExtraError: ray is not installed.
    """
    require("ray.data", "ray")
    one_by_one = dataset.repartition(target_num_rows_per_block=1)  # else few large blocks leave actors idle
    return one_by_one.map(
        VideoProcessor,
        fn_constructor_kwargs={
            "servers": servers, "settings": settings, "command": command, "options": options,
        },
        concurrency=concurrency,
        num_cpus=num_cpus,
        max_restarts=-1,
        max_task_retries=-1,
    )  # fmt: skip
