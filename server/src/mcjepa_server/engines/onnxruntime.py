"""The exported models in this process, on ONNX Runtime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxruntime as ort

from mcjepa_server.contract import EMBED, FLOW, Contract, load_contract
from mcjepa_server.cores import usable_cores
from mcjepa_server.engine import EmbedOutput, FloatArray, FlowOutput, Uint8Array
from mcjepa_server.engines.sessions import Encoded, Sessions
from mcjepa_server.errors import EngineError

LANES = 2  # runs at once of a caller that is alone

T = TypeVar("T")


class OnnxRuntimeEngine:
    """A call is made of small runs: of a frame, a pair or a part of a batch, in a bounded pool of threads.

    A thread that waits for no other does more. So a caller's runs go on at once, as many as there are lanes,
    on few threads each, and one after the other while anybody else calls; a pair that nothing can go on
    beside has all threads, for its latency. ONNX Runtime lets go of the GIL.
    """

    name = "onnxruntime"
    clip_frames = 256  # as many as come: they go through one by one

    def __init__(self, contract: Contract, sessions: Sessions, lanes: int, workers: int) -> None:
        self._contract = contract
        self._sessions = sessions
        self._lanes = lanes
        self._callers = 0
        self._grown = False  # the arena, since it was last given back
        self._pool = ThreadPoolExecutor(max(lanes, workers), thread_name_prefix="onnxruntime")

    @classmethod
    def load(cls, repository: Path, intra_op_threads: int, workers: int) -> OnnxRuntimeEngine:
        """Reads a model repository.

        ``intra_op_threads`` are those of all runs together, 0 is one per core; at most ``workers`` calls come
        at once. Blocking. Raises ContractError for anything missing or different.
        """
        contract = load_contract(repository)
        threads = intra_op_threads or usable_cores()
        lanes = min(threads, max(LANES, workers))
        return cls(contract, Sessions.open(repository, contract, threads, lanes), lanes, workers)

    @property
    def contract(self) -> Contract:
        return self._contract

    async def infer_flow(self, frames: Uint8Array, backward: bool, embed: bool = True) -> FlowOutput:
        async with self._call(FLOW) as options:
            outputs = [await self._clip(clip, backward, embed, options) for clip in frames]
        forth, back, embeddings = (_stack(parts) for parts in zip(*outputs, strict=True))
        assert forth is not None, "a clip has a flow"
        return FlowOutput(forth, back, embeddings)

    async def infer_embed(self, images: Uint8Array) -> EmbedOutput:
        async with self._call(EMBED) as options:
            parts = np.array_split(images, min(self._free_lanes(), len(images)))
            found = await self._runs([partial(self._sessions.embed_images, part, options) for part in parts])
        return EmbedOutput(_join(found))

    async def ready(self) -> bool:
        return True

    async def give_back(self) -> None:
        """The arena shrinks at the end of a run that asks for it; the shortest run does."""
        if self._callers or not self._grown:
            return
        side = self._contract.embed_image_size
        async with self._call(EMBED) as options:
            self._grown = False  # unless another call begins meanwhile
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
            image = np.zeros((1, side, side, 3), np.uint8)
            await self._runs([partial(self._sessions.embed_images, image, options)])

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _clip(
        self, clip: Uint8Array, backward: bool, embed: bool, options: ort.RunOptions
    ) -> tuple[list[FloatArray], list[FloatArray], list[FloatArray]]:
        """(N, H, W, 3) to N - 1 flows (1, 2, H, W), as many back or none, N embeddings (1, D) or none.

        Each frame is encoded once, and kept for no longer than a flow needs it.
        """
        forth: list[FloatArray] = []
        back: list[FloatArray] = []
        embeddings: list[FloatArray] = []
        encoded: list[Encoded] = []
        while (done := len(forth)) < len(clip) - 1:
            end = min(done + self._free_lanes() + 1, len(clip))
            fresh = await self._encode(clip[done + len(encoded[-1:]) : end], embed, options)
            embeddings += [frame.embedding for frame in fresh if frame.embedding is not None]
            encoded = [*encoded[-1:], *fresh]
            pairs = list(pairwise(encoded))
            flows = await self._match(pairs + [(two, one) for one, two in pairs if backward], options)
            forth += flows[: len(pairs)]
            back += flows[len(pairs) :]
        return forth, back, embeddings

    async def _encode(self, frames: Uint8Array, embed: bool, options: ort.RunOptions) -> list[Encoded]:
        encode = self._sessions.encode_frame
        return await self._runs(
            [partial(encode, frames[i : i + 1], embed, options) for i in range(len(frames))]
        )

    async def _match(
        self, pairs: Sequence[tuple[Encoded, Encoded]], options: ort.RunOptions
    ) -> list[FloatArray]:
        alone = len(pairs) == 1 and self._callers == 1
        match = self._sessions.match_frames
        return await self._runs([partial(match, one, two, options, alone) for one, two in pairs])

    async def _runs(self, runs: Sequence[Callable[[], T]]) -> list[T]:
        """What the runs give, in their order; as many at once as there are free lanes."""
        loop = asyncio.get_running_loop()
        found: list[T] = []
        while len(found) < len(runs):
            now = runs[len(found) : len(found) + self._free_lanes()]
            found += await asyncio.gather(*(loop.run_in_executor(self._pool, run) for run in now))
        return found

    def _free_lanes(self) -> int:
        return self._lanes if self._callers == 1 else 1

    @asynccontextmanager
    async def _call(self, model: str) -> AsyncIterator[ort.RunOptions]:
        """Around the runs of a call. Those that go on when it ends stop between two nodes of a graph."""
        options = ort.RunOptions()
        self._callers += 1
        self._grown = True
        try:
            yield options
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise EngineError(f"{model} failed in ONNX Runtime") from error
        finally:
            options.terminate = True
            self._callers -= 1


def _join(parts: Sequence[FloatArray]) -> FloatArray:
    """Along the first axis; the only one as it is."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _stack(clips: Sequence[Sequence[FloatArray]]) -> FloatArray | None:
    """Parts of each clip, one after the other, and the clips along a new first axis; None without parts."""
    return _join([_join(parts)[None] for parts in clips]) if clips[0] else None
