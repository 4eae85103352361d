"""The awaiting driver: `Client` for asyncio and trio, the same methods, parameter for parameter."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx2

from mcjepa_client._base import DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT, SENDING_ERRORS, BaseClient
from mcjepa_client._connect import connect
from mcjepa_client._errors import ConnectionFailedError, InputError, McjepaError, os_errors_as_file_errors
from mcjepa_client._images import ImageInput
from mcjepa_client._patience import Patience
from mcjepa_client._pools import PerLoop, PerProcess, refuse_other_process
from mcjepa_client._requests import FlowRequest, OnError
from mcjepa_client._results import AnalyzeResult, Direction, EmbedResult, FlowResult, Quality
from mcjepa_client._steps import Operation, Reply, Send, Step, Wait
from mcjepa_client._video.clips import DEFAULT_CLIP_FRAMES, Clip
from mcjepa_client._video.job import (
    DEFAULT_IN_FLIGHT,
    DEFAULT_PATIENCE,
    Effort,
    VideoJob,
    VideoOptions,
    plan_job,
)
from mcjepa_client._video.results import FrameResult, deliver
from mcjepa_client._video.sources import DEFAULT_FPS, VideoInput
from mcjepa_client._video.stream import async_answers

T = TypeVar("T")
C = TypeVar("C", bound="AsyncClient")


class AsyncClient(BaseClient):
    """`Client` for asyncio and trio: the same arguments, methods, results and errors, each method awaited.

    Reading files, encoding images and decoding replies run in a thread, so the event loop stays free. Each
    event loop has connections of its own, which close when it ends: one client serves several calls of
    `asyncio.run`. `video` needs asyncio.
    """

    def __init__(
        self,
        base_url: str | Sequence[str] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        max_retries: int = DEFAULT_MAX_RETRIES,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        http_client: httpx2.AsyncClient | None = None,
    ) -> None:
        super().__init__(base_url, timeout, max_retries, api_key, headers)
        self._owns_http = http_client is None
        self._first_loop: object = None  # that has used `http_client`
        self._pool = (
            self._make_pool() if http_client is None else PerProcess(refuse_other_process, http_client)
        )

    def _make_pool(self) -> PerLoop:
        return PerLoop(self._make_http)

    def _make_http(self) -> httpx2.AsyncClient:
        return connect(
            httpx2.AsyncClient,
            lambda: httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport()),
            self.base_urls,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._pool = self._make_pool()

    async def _http(self) -> httpx2.AsyncClient:
        """Return the connections of this event loop."""
        self._check_open()
        if isinstance(self._pool, PerLoop):
            return await self._pool.get()
        self._first_loop = self._first_loop or anyio.lowlevel.current_token()
        return self._pool.get()

    async def flow(
        self,
        img1: ImageInput,
        img2: ImageInput,
        *,
        direction: Direction = "forward",
        occlusion: bool = False,
        max_side: int | None = None,
        quality: Quality | None = None,
    ) -> FlowResult:
        """As `Client.flow`."""
        return await self._run(self._flow(img1, img2, FlowRequest(direction, occlusion, max_side, quality)))

    async def embed(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        dimensions: int | None = None,
        on_error: OnError = "raise",
    ) -> EmbedResult:
        """As `Client.embed`."""
        return await self._run(self._embed(images, dimensions, on_error))

    async def analyze(
        self,
        frames: Iterable[ImageInput],
        *,
        direction: Direction = "forward",
        occlusion: bool = False,
        max_side: int | None = None,
        quality: Quality | None = None,
    ) -> AnalyzeResult:
        """As `Client.analyze`."""
        return await self._run(self._analyze(frames, FlowRequest(direction, occlusion, max_side, quality)))

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
    ) -> AsyncIterator[FrameResult]:
        """As `Client.video`, for `async for`, under asyncio."""
        options = VideoOptions(direction, occlusion, max_side, clip_frames, quality)
        with os_errors_as_file_errors():
            job = plan_job(source, stride, start, stop, fps, options)
        return self._frame_results(job, Effort(in_flight, patience))

    async def info(self) -> dict[str, Any]:
        """As `Client.info`."""
        return await self._run(self._info())

    async def models(self) -> list[dict[str, Any]]:
        """As `Client.models`."""
        return await self._run(self._models())

    async def is_alive(self) -> bool:
        """As `Client.is_alive`."""
        return await self._run(self._probe("/healthz"))

    async def is_ready(self) -> bool:
        """As `Client.is_ready`."""
        return await self._run(self._probe("/readyz"))

    async def wait_until_ready(self, timeout: float = 60.0) -> None:
        """As `Client.wait_until_ready`."""
        await self._run(self._wait_until_ready(timeout))

    async def close(self) -> None:
        """As `Client.close`, for this event loop; the connections of others close when their loop ends."""
        self._is_closed = True
        if isinstance(self._pool, PerLoop):
            await self._pool.close()

    async def __aenter__(self: C) -> C:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _frame_results(self, job: VideoJob, effort: Effort) -> AsyncIterator[FrameResult]:
        _check_asyncio()
        limits = await self._run(self._clip_limits(Patience(seconds=effort.patience)))

        async def ask(clip: Clip) -> AnalyzeResult:
            patience = Patience(seconds=effort.patience)
            return await self._run(self._clip(clip.images, job.options, limits, patience))

        window = effort.in_flight * len(self.base_urls)
        with os_errors_as_file_errors():
            async with aclosing(async_answers(job.clips(limits), ask, window)) as answered:
                async for clip, analysis in answered:
                    for result in deliver(clip, analysis):
                        yield result

    async def _run(self, operation: Operation[T]) -> T:
        outcome: object = None
        while True:
            try:
                step = operation.send(outcome)
            except StopIteration as stop:
                result: T = stop.value
                return result
            outcome = await self._perform(step)

    async def _perform(self, step: Step) -> object:
        if isinstance(step, Send):
            return await self._send(step)
        if isinstance(step, Wait):
            await anyio.sleep(step.seconds)
            return None
        # Cancelled, a call ends at once: nobody wants what the thread still computes.
        return await anyio.to_thread.run_sync(step.job, abandon_on_cancel=True)

    async def _send(self, step: Send) -> Reply | ConnectionFailedError:
        http = None
        try:
            http = await self._http()
            response = await http.send(http.build_request(**self._arguments(step)))
        except McjepaError:
            raise
        except SENDING_ERRORS as error:
            is_closed = http is not None and http.is_closed
            if isinstance(error, RuntimeError) and not is_closed and self._is_of_another_loop():
                raise InputError(
                    f"http_client: its connections are those of the event loop that used it first ({error}); "
                    "make one for each loop, or leave http_client out"
                ) from error
            return self._connection_error(step, error, is_closed)
        return Reply(response.status_code, response.headers, response.content)

    def _is_of_another_loop(self) -> bool:
        """Return whether another event loop used the caller's `http_client` first."""
        return self._first_loop is not None and self._first_loop != anyio.lowlevel.current_token()


def _check_asyncio() -> None:
    """Raise InputError under trio: the calls under way are tasks of asyncio."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise InputError(
            "video: it needs asyncio; under trio, iterate over Client.video in a thread"
        ) from None
