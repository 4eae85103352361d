"""The state behind the routes: engine, readiness, admission, metrics."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import numpy as np
from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from mcjepa_server import __version__
from mcjepa_server.config import Settings
from mcjepa_server.decoding.pool import Decoders
from mcjepa_server.engines.base import Engine
from mcjepa_server.engines.contract import Contract
from mcjepa_server.errors import ApiError, ContractError, EngineError, NotReady
from mcjepa_server.imaging.resize import pack_clip
from mcjepa_server.observability.malloc import trim_memory
from mcjepa_server.observability.metrics import Metrics
from mcjepa_server.observability.timing import Timings, time_limit
from mcjepa_server.scheduling.admission import Admission, Reservation, Work
from mcjepa_server.scheduling.byte_budget import ByteBudget
from mcjepa_server.scheduling.pipeline import FlowOptions, Pipeline

logger = logging.getLogger(__name__)

CANARIES_TO_DEAD = 3  # that an engine of this process fails in a row; nothing but a restart may help it
DRAINING = "draining: the server is shutting down"

EngineFactory = Callable[[], Awaitable[Engine]]


class Service:
    """Ready only after a canary inference gave a finite answer of the right shape; not ready again after
    ``failures_to_unready`` engine failures in a row, until a canary passes.
    """

    def __init__(self, settings: Settings, make_engine: EngineFactory) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.admission = Admission(settings)
        self.bodies = ByteBudget(settings.max_buffered_bytes)
        self.decoders = Decoders(settings, self.metrics.decoder_failures)
        #: Parsing JSON holds the interpreter: more at once would only hold more memory.
        self.parsers = CapacityLimiter(2)
        self._failing: str | None = "starting"
        self._make_engine = make_engine
        self._engine: Engine | None = None
        self._pipeline: Pipeline | None = None
        self._failures = 0
        self._failed_canaries = 0
        self._last_success = 0.0  # on the clock of the event loop
        self._watcher: asyncio.Task[None] | None = None
        self._draining = False
        self.metrics.in_flight.set_function(lambda: self.admission.inside)
        self.metrics.queue_pixels.set_function(lambda: self.admission.pixels)
        self.metrics.queue_depth.set_function(lambda: self.admission.waiting)
        self.metrics.ready.set_function(lambda: self.reason is None)

    async def start(self) -> None:
        """Loads the engine and tries the canary once; further tries follow in the background."""
        await self.decoders.start()
        await self.check()
        self._watcher = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        self.drain()
        if self._watcher is not None:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
        if self._engine is not None:
            await self._engine.close()
        await self.decoders.stop()

    @property
    def reason(self) -> str | None:
        """Why the server should be sent no requests, None while it should."""
        return DRAINING if self._draining else self._failing or self.decoders.failure

    @property
    def dead(self) -> str | None:
        """Why this process should be restarted, None while it should not. For a Triton it never should."""
        if self.settings.uses_triton or self._failed_canaries < CANARIES_TO_DEAD:
            return None
        return f"the engine failed {self._failed_canaries} canary inferences in a row: {self._failing}"

    @property
    def draining(self) -> bool:
        return self._draining

    def drain(self) -> None:
        """Ends readiness, so that balancers look elsewhere. Whatever still arrives is served."""
        self._draining = True

    async def check(self) -> None:
        """Loads the engine if need be and runs the canary; sets the reason for not being ready."""
        try:
            async with time_limit(self.settings.request_timeout_s):
                if self._engine is None:
                    self._engine = await self._make_engine()
                    self._report_build(self._engine)
                if self._pipeline is None:
                    self._pipeline = Pipeline(self._engine, self.settings)
                await self._canary(self._engine, self._pipeline_or_raise())
        except TimeoutError:
            self._failed_canaries += 1
            self._set_reason(f"the canary inference took over {self.settings.request_timeout_s:g} s")
        except EngineError as error:
            self._failed_canaries += 1
            self._set_reason(str(error))
        except (ContractError, ApiError) as error:
            self._set_reason(str(error))
        except Exception:
            logger.exception("the engine could not be started")
            self._set_reason("the engine could not be started; the log has the details")
        else:
            self._failures = self._failed_canaries = 0
            self._set_reason(None)

    def require_ready(self) -> Pipeline:
        """The pipeline of an engine that works. Raises NotReady with the reason."""
        if reason := self._failing or self.decoders.failure:
            raise self.not_ready(reason)
        return self._pipeline_or_raise()

    def not_ready(self, reason: str) -> NotReady:
        return NotReady(reason, headers={"Retry-After": str(int(self.settings.readiness_interval_s) or 1)})

    @property
    def contract(self) -> Contract:
        """Of the loaded engine, ready or not. Raises NotReady when nothing is loaded."""
        if self._engine is None:
            self.require_ready()
            raise NotReady("starting")
        return self._engine.contract

    @property
    def engine_name(self) -> str | None:
        return None if self._engine is None else self._engine.name

    @asynccontextmanager
    async def slot(
        self, timings: Timings, work: Work, reservation: Reservation | None = None
    ) -> AsyncIterator[None]:
        """Around one call of the engine: waits for a slot, measures, ends readiness on repeated failure.

        Without a reservation it is the canary, which may try an engine that is out of use.
        """
        async with self.admission.slot(timings, reservation):
            if reservation is not None:
                self.require_ready()  # the engine may have failed since the request came in
            self.metrics.batch_size.observe(work.items)
            before = timings.seconds.get("inference", 0.0)
            try:
                with timings.stage("inference"):
                    yield
            except EngineError as error:
                logger.error("engine: %s", error.message, exc_info=error.__cause__)
                self._count_failure(error.message)
                raise
            except NotReady as error:
                self._set_reason(error.message)
                raise
            self._failures = 0
            self._last_success = asyncio.get_running_loop().time()
            if reservation is not None:
                self.admission.update_cost_model(work, timings.seconds["inference"] - before)

    def note_deadline(self, timings: Timings) -> None:
        """A request ran out of time. If most of it was the engine's, the engine may hang; a caller who allows
        a millisecond proves nothing."""
        if timings.seconds.get("inference", 0.0) > self.settings.request_timeout_s / 2:
            self._count_failure("the deadline passed during inference")

    def _count_failure(self, message: str) -> None:
        self._failures += 1
        if self._failures >= self.settings.failures_to_unready and self._failing is None:
            self._set_reason(f"{self._failures} engine failures in a row, the last: {message}")

    async def _canary(self, engine: Engine, pipeline: Pipeline) -> None:
        if not await engine.ready():
            raise NotReady(f"the engine {engine.name} is not ready")
        await self.decoders.check(pipeline.planner(None))
        timings = Timings()
        rng = np.random.default_rng(0)
        frames = rng.integers(0, 256, (2, engine.contract.stride, engine.contract.stride, 3), np.uint8)
        geometry = pipeline.planner(None)(frames.shape[2], frames.shape[1])
        clip = pack_clip(list(frames), geometry)
        for options in (FlowOptions(), FlowOptions(backward=True, embed=True)):
            await pipeline.flow(clip, geometry, options, partial(self.slot, timings))
        side = engine.contract.embed_image_size
        await pipeline.embed(rng.integers(0, 256, (1, side, side, 3), np.uint8), partial(self.slot, timings))

    def _report_build(self, engine: Engine) -> None:
        contract = engine.contract
        self.metrics.build.labels(
            __version__, engine.name, contract.model_version, contract.weights_sha256
        ).set(1)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.settings.readiness_interval_s)
            try:
                await self._look_after()
            except Exception:  # without an end of its own: nothing else would find the way back to readiness
                logger.exception("looking after the engine and the decoders failed; it is tried again")

    async def _look_after(self) -> None:
        await self._trim_memory()
        if self._draining:
            return
        await self.decoders.start()
        if self.reason is not None or self._is_stale():
            await self.check()

    async def _trim_memory(self) -> None:
        """Free what requests left in cycles, and what the engine keeps, which both goes into the heap."""
        gc.collect()
        if self._engine is not None:
            with suppress(EngineError, TimeoutError):  # the next request or canary will tell
                async with time_limit(self.settings.request_timeout_s):
                    await self._engine.trim_memory()
        await run_sync(trim_memory)

    def _is_stale(self) -> bool:
        """Whether nothing has shown for a while that the engine works."""
        age = asyncio.get_running_loop().time() - self._last_success
        return age > self.settings.canary_interval_s

    def _pipeline_or_raise(self) -> Pipeline:
        if self._pipeline is None:
            raise NotReady("starting")
        return self._pipeline

    def _set_reason(self, reason: str | None) -> None:
        if reason == self._failing:
            return
        self._failing = reason
        if reason is None:
            logger.info("ready")
        else:
            logger.warning("not ready: %s", reason)
