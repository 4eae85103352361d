"""The awaiting driver: `Client` for asyncio, the same methods, parameter for parameter."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2

from mcjepa_client._base import DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT, BaseClient
from mcjepa_client._errors import ConnectionFailedError
from mcjepa_client._images import ImageInput
from mcjepa_client._patience import Patience
from mcjepa_client._results import AnalyzeResult, Direction, EmbedResult, FlowResult
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


class AsyncClient(BaseClient):
    """`Client` for asyncio: the same arguments, methods, results and errors, each method awaited.

    Reading files, encoding images and decoding replies run in a thread, so the event loop stays free.
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
        self._http = http_client or httpx2.AsyncClient()
        self._owns_http = http_client is None

    async def flow(
        self,
        img1: ImageInput,
        img2: ImageInput,
        *,
        direction: Direction = "forward",
        occlusion: bool = False,
        max_side: int | None = None,
    ) -> FlowResult:
        """As `Client.flow`."""
        return await self._run(self._flow(img1, img2, direction, occlusion, max_side))

    async def embed(
        self, images: ImageInput | Iterable[ImageInput], *, dimensions: int | None = None
    ) -> EmbedResult:
        """As `Client.embed`."""
        return await self._run(self._embed(images, dimensions))

    async def analyze(
        self,
        frames: Iterable[ImageInput],
        *,
        direction: Direction = "forward",
        occlusion: bool = False,
        max_side: int | None = None,
    ) -> AnalyzeResult:
        """As `Client.analyze`."""
        return await self._run(self._analyze(frames, direction, occlusion, max_side))

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
        fps: float = DEFAULT_FPS,
        clip_frames: int = DEFAULT_CLIP_FRAMES,
        in_flight: int = DEFAULT_IN_FLIGHT,
        patience: float = DEFAULT_PATIENCE,
    ) -> AsyncIterator[FrameResult]:
        """As `Client.video`, for `async for`."""
        job = plan_job(
            source, stride, start, stop, fps, VideoOptions(direction, occlusion, max_side, clip_frames)
        )
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
        """As `Client.close`."""
        if self._owns_http:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _frame_results(self, job: VideoJob, effort: Effort) -> AsyncIterator[FrameResult]:
        limits = await self._run(self._clip_limits(Patience(seconds=effort.patience)))

        async def ask(clip: Clip) -> AnalyzeResult:
            patience = Patience(seconds=effort.patience)
            return await self._run(self._clip(clip.images, job.options, limits, patience))

        window = effort.in_flight * len(self.base_urls)
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
            await asyncio.sleep(step.seconds)
            return None
        return await asyncio.to_thread(step.job)

    async def _send(self, step: Send) -> Reply | ConnectionFailedError:
        try:
            response = await self._http.send(self._http.build_request(**self._arguments(step)))
        except httpx2.RequestError as error:
            return self._connection_error(step, error)
        return Reply(response.status_code, response.headers, response.content)
