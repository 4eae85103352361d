"""The blocking driver of the steps of `_base`; `_async_client` has the awaiting one, method for method."""

import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, TypeVar

import httpx2

from mcjepa_client._base import DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT, SENDING_ERRORS, BaseClient
from mcjepa_client._connect import connect
from mcjepa_client._errors import ConnectionFailedError, os_errors_as_file_errors
from mcjepa_client._files import PathLike
from mcjepa_client._images import ImageInput
from mcjepa_client._patience import Patience
from mcjepa_client._pools import PerProcess, refuse_other_process
from mcjepa_client._requests import FlowRequest, OnError
from mcjepa_client._results import AnalyzeResult, Direction, EmbedResult, FlowResult, Quality
from mcjepa_client._steps import Operation, Reply, Send, Step, Wait
from mcjepa_client._video.clips import DEFAULT_CLIP_FRAMES, Clip, ClipLimits
from mcjepa_client._video.job import (
    DEFAULT_IN_FLIGHT,
    DEFAULT_PATIENCE,
    Effort,
    Outputs,
    Progress,
    VideoJob,
    VideoOptions,
    plan_job,
)
from mcjepa_client._video.overlay import View
from mcjepa_client._video.process import ProcessResult, process
from mcjepa_client._video.results import FrameResult, deliver
from mcjepa_client._video.sources import DEFAULT_FPS, VideoInput
from mcjepa_client._video.store import FlowStorage
from mcjepa_client._video.stream import Answer, answers

T = TypeVar("T")
C = TypeVar("C", bound="Client")


class Client(BaseClient):
    """A connection to an mcjepa server. Safe to share between threads, and with forked processes.

    A process that was forked makes connections of its own, and pickled, a client is its settings (the API key
    among them): it can be handed to multiprocessing, joblib, Dask, Ray or the workers of a DataLoader.

    Every call is retried up to `max_retries` times on connection errors and on 429, 502, 503 and 504, after
    the time the server asks for (at most 60 s) or an exponentially growing, jittered one. All calls are pure
    computations, so a second attempt does no harm.

    Images are given as a path, as the bytes of an image file, as an open file, as an array (H, W, 3) RGB or
    (H, W) grey, or as a PIL image. Files are sent as they are, arrays and PIL images as PNG: uint8 without
    loss, 16-bit samples scaled to 8 bits as the server does it, bool as 0 and 255. What has no range, such as
    floats, is refused.

    Every error is an McjepaError. Every call raises InputError before sending when an argument is wrong,
    ConnectionFailedError when no reply came, a StatusError of its own class for each error status,
    InvalidReplyError for a reply that is broken, not finite, or not the server's, FileError when a file
    cannot be read or written, and ClientClosedError after `close()`.

    Args:
        base_url: the server, as "http://HOST:PORT", or several with the same models, which are asked in turn.
            None takes the environment variable MCJEPA_SERVER (several are separated by commas), and without
            it http://127.0.0.1:8000.
        timeout: seconds to wait for progress (to send, or for the next bytes); connecting gets at most 10.
        max_retries: further attempts after the first.
        api_key: for servers that ask for one; sent to every server as "Authorization: Bearer KEY". None takes
            the environment variable MCJEPA_API_KEY.
        headers: sent with every request; they go before those of the client.
        http_client: the httpx2 client to use, for proxies or certificates; closing it is up to you. Its
            connections are of one process: a forked one must not use them, and the client cannot be pickled.
    """

    def __init__(
        self,
        base_url: str | Sequence[str] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        max_retries: int = DEFAULT_MAX_RETRIES,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        http_client: httpx2.Client | None = None,
    ) -> None:
        super().__init__(base_url, timeout, max_retries, api_key, headers)
        self._owns_http = http_client is None
        self._pool = (
            self._make_pool() if http_client is None else PerProcess(refuse_other_process, http_client)
        )
        self._pool.get()

    def _make_pool(self) -> PerProcess[httpx2.Client]:
        return PerProcess(self._make_http)

    def _make_http(self) -> httpx2.Client:
        return connect(httpx2.Client, lambda: httpx2.Client(transport=httpx2.HTTPTransport()), self.base_urls)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._pool = self._make_pool()

    @property
    def _http(self) -> httpx2.Client:
        """The connections of this process."""
        self._check_open()
        return self._pool.get()

    def flow(
        self,
        img1: ImageInput,
        img2: ImageInput,
        *,
        direction: Direction = "forward",
        occlusion: bool = False,
        max_side: int | None = None,
        quality: Quality | None = None,
    ) -> FlowResult:
        """Optical flow between two frames of the same size.

        Args:
            img1, img2: the frames.
            direction: "forward" from img1 to img2, "backward" from img2 to img1, or "both".
            occlusion: also return which pixels have no counterpart in the other frame.
            max_side: compute at most at this length (px) of the longer side; the flow still comes back in the
                size and the pixels of the frames. None leaves it to the server.
            quality: how much is computed: "fast", "balanced" or "best", of those the server has
                (`info()["model"]["qualities"]`, with their errors and costs). None leaves it to the server.

        Arrays and PIL images that are too large for a request are sent as large as they are computed. Files
        and bytes are always sent as they are.
        """
        return self._run(self._flow(img1, img2, FlowRequest(direction, occlusion, max_side, quality)))

    def embed(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        dimensions: int | None = None,
        on_error: OnError = "raise",
    ) -> EmbedResult:
        """Embeddings of one or more images, of any sizes.

        More images than the server takes at once are sent in several requests, one after the other.

        Args:
            images: one image or an iterable of images.
            dimensions: keep only this many leading numbers, normalised again. None keeps all.
            on_error: "raise" ends at the first image that cannot be read or decoded, or is too large; the
                error has its `index` and `path`. "skip" goes on without it: the result has `indices` and
                `failed`. Other errors, such as a server that is gone, are raised in either case.
        """
        return self._run(self._embed(images, dimensions, on_error))

    def analyze(
        self,
        frames: Iterable[ImageInput],
        *,
        direction: Direction = "forward",
        occlusion: bool = False,
        max_side: int | None = None,
        quality: Quality | None = None,
    ) -> AnalyzeResult:
        """Flow between neighbouring frames and the embedding of each, out of one encoder pass per frame.

        Args:
            frames: two or more frames of the same size, in order; `info()["limits"]["max_frames"]` at most.
            direction: "forward" or "both".
            occlusion, max_side, quality: as for `flow`.
        """
        return self._run(self._analyze(frames, FlowRequest(direction, occlusion, max_side, quality)))

    def video(
        self,
        source: VideoInput,
        *,
        stride: int = 1,
        start: float | None = None,
        stop: float | None = None,
        direction: Direction = "forward",
        occlusion: bool = False,
        max_side: int | None = None,
        quality: Quality | None = None,
        fps: float = DEFAULT_FPS,
        clip_frames: int = DEFAULT_CLIP_FRAMES,
        in_flight: int = DEFAULT_IN_FLIGHT,
        patience: float = DEFAULT_PATIENCE,
    ) -> Iterator[FrameResult]:
        """Flow and embeddings of a whole video, frame by frame and in order, in constant memory.

        Frames are sent as clips that overlap by one, so that each passes the encoder once, a few at a time.
        N frames give N results and N - 1 flows, or an error: the results of what could be read of a damaged
        or truncated video come first, then VideoError. Lost connections, 429, 502, 503 and 504 are tried
        again for `patience` seconds, on every server in turn.

        Args:
            source: a video file, a folder of image files or a pattern of them ("frames/*.png", in natural
                order), an address that FFmpeg reads ("rtsp://..."), or the number of a camera. Videos need
                the extra [video]. Their rotation is applied, and `timestamp` is exact for
                variable frame rates too.
            stride: take every stride-th frame; flow then runs to the next frame taken.
            start, stop: take frames with start <= timestamp < stop, in seconds.
            direction: "forward" or "both".
            occlusion, max_side, quality: as for `flow`.
            fps: frames per second of image files, which carry no times.
            clip_frames: frames per request; fewer are sent where the server takes fewer or frames are large.
            in_flight: requests under way per server.
            patience: seconds that one request may go on failing.

        Raises:
            InputError: a wrong argument, or there is no such source.
            MissingExtraError: the source is a video and PyAV is not installed.
            VideoError: no video, or a damaged one.
        """
        options = VideoOptions(direction, occlusion, max_side, clip_frames, quality)
        with os_errors_as_file_errors():
            job = plan_job(source, stride, start, stop, fps, options)
        return self._frame_results(job, Effort(in_flight, patience))

    def process(
        self,
        source: VideoInput,
        out: PathLike,
        *,
        flow: FlowStorage = "zarr",
        overlay: View | None = "overlay",
        stride: int = 1,
        start: float | None = None,
        stop: float | None = None,
        direction: Direction = "forward",
        occlusion: bool = False,
        max_side: int | None = None,
        quality: Quality | None = None,
        fps: float = DEFAULT_FPS,
        clip_frames: int = DEFAULT_CLIP_FRAMES,
        in_flight: int = DEFAULT_IN_FLIGHT,
        patience: float = DEFAULT_PATIENCE,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> ProcessResult:
        """Flow and embeddings of a whole video into a folder: `flow.zarr`, `embeddings.parquet`,
        `overlay.mp4` and `manifest.jsonl`. docs/video.md describes them.

        Killed at any moment and called again with the same arguments, it goes on, and gives the bytes of a
        run that was never killed. Until it is done, the work is in OUT.partial. Needs the extra [video].

        Args:
            source, stride, start, stop, direction, occlusion, max_side, quality, fps, clip_frames,
                in_flight, patience: as for `video`; the source must be files, since they are read twice.
            out: the folder to make. It must not exist, be empty, or hold these results already.
            flow: "zarr" for one store, or "flo", "kitti" or "npy" for a file for each frame in `flow/`.
            overlay: a video of the flow over the frames ("overlay") or beside them ("side-by-side"), or None.
            overwrite: start over, and remove the results that are there.
            progress: called with the stage ("flow", "overlay"), frames done and, where known, all frames.

        Raises:
            VideoError: the video is damaged; `out` has what could be read before.
            InputError: wrong arguments, `out` holds other results, or another process is at it.
        """
        options = VideoOptions(direction, occlusion, max_side, clip_frames, quality)
        with os_errors_as_file_errors():
            job = plan_job(source, stride, start, stop, fps, options)
            asker = _Asker(self, Effort(in_flight, patience))
            return process(job, out, Outputs(flow, overlay), overwrite, progress or (lambda *_: None), asker)

    def info(self) -> dict[str, Any]:
        """Version, engine, weights, limits and formats of the server (GET /v1/info)."""
        return self._run(self._info())

    def models(self) -> list[dict[str, Any]]:
        """The models it serves, each with its `id` (GET /v1/models)."""
        return self._run(self._models())

    def is_alive(self) -> bool:
        """Whether the server process answers. Never raises for a server that does not."""
        return self._run(self._probe("/healthz"))

    def is_ready(self) -> bool:
        """Whether the server can compute. Never raises for a server that does not answer."""
        return self._run(self._probe("/readyz"))

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Return as soon as the server can compute.

        Raises ServiceUnavailableError (with the server's reason) or ConnectionFailedError after `timeout`
        seconds, and at once when something else than an mcjepa server answers.
        """
        self._run(self._wait_until_ready(timeout))

    def close(self) -> None:
        """Close the connections of this process. An `http_client` that was passed in is left open.

        Every call after it raises ClientClosedError.
        """
        self._is_closed = True
        http = self._pool.peek()
        if self._owns_http and http is not None:
            http.close()

    def __enter__(self: C) -> C:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _frame_results(self, job: VideoJob, effort: Effort) -> Iterator[FrameResult]:
        with os_errors_as_file_errors(), closing(self._answers(job, effort)) as answered:
            for clip, analysis in answered:
                yield from deliver(clip, analysis)

    def _answers(
        self, job: VideoJob, effort: Effort, skip: int = 0, length: int | None = None
    ) -> Generator[Answer, None, None]:
        """The clips of a job from frame `skip` on, each with its analysis."""
        stopped = threading.Event()
        limits = self._limits_of_clips(effort)

        def ask(clip: Clip) -> AnalyzeResult:
            patience = Patience(seconds=effort.patience, stopped=stopped)
            return self._run(self._clip(clip.images, job.options, limits, patience))

        window = effort.in_flight * len(self.base_urls)
        return answers(job.clips(limits, skip, length), ask, window, stopped)

    def _limits_of_clips(self, effort: Effort) -> ClipLimits:
        return self._run(self._clip_limits(Patience(seconds=effort.patience)))

    def _run(self, operation: Operation[T]) -> T:
        outcome: object = None
        while True:
            try:
                step = operation.send(outcome)
            except StopIteration as stop:
                result: T = stop.value
                return result
            outcome = self._perform(step)

    def _perform(self, step: Step) -> object:
        if isinstance(step, Send):
            return self._send(step)
        if isinstance(step, Wait):
            time.sleep(step.seconds)
            return None
        return step.job()

    def _send(self, step: Send) -> Reply | ConnectionFailedError:
        http = self._http
        try:
            response = http.send(http.build_request(**self._arguments(step)))
        except SENDING_ERRORS as error:
            return self._connection_error(step, error, http.is_closed)
        return Reply(response.status_code, response.headers, response.content)


class _Asker:
    """What `process` needs of a client."""

    def __init__(self, client: Client, effort: Effort) -> None:
        self._client = client
        self._effort = effort

    def clip_length(self, job: VideoJob, shape: tuple[int, ...]) -> int:
        return job.options.length(shape, self._client._limits_of_clips(self._effort))

    def answers(self, job: VideoJob, skip: int, length: int) -> Generator[Answer, None, None]:
        return self._client._answers(job, self._effort, skip, length)
