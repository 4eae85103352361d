"""The exported models in this process, on ONNX Runtime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort

from mcjepa_server.contract import EMBED, FLOW, Contract, load_contract
from mcjepa_server.cores import usable_cores
from mcjepa_server.engine import EmbedOutput, FloatArray, FlowOutput, Uint8Array
from mcjepa_server.engines.lanes import Key, Step, run_steps
from mcjepa_server.engines.sessions import Encoded, Sessions
from mcjepa_server.errors import EngineError

LANES = 2  # runs at once of a caller that is alone


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
            embed = partial(self._sessions.embed_images, options)
            if len(images) == 1:
                return EmbedOutput(await self._run(embed, images))
            parts = np.array_split(images, min(self._free_lanes(), len(images)))
            steps = {("embedding", index): Step(partial(embed, part)) for index, part in enumerate(parts)}
            found = await run_steps(steps, self._pool, self._free_lanes)
        return EmbedOutput(_join(list(found.values())))

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
            await self._run(self._sessions.embed_images, options, image)

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _clip(
        self, clip: Uint8Array, backward: bool, embed: bool, options: ort.RunOptions
    ) -> tuple[list[FloatArray], list[FloatArray], list[FloatArray]]:
        """(N, H, W, 3) to N - 1 flows (1, 2, H, W), as many back or none, N embeddings (1, D) or none.

        Each frame is encoded once, and kept for no longer than a flow needs it.
        """
        sessions = self._sessions
        match = partial(sessions.match_frames, options)
        alone = partial(match, alone=True)
        embeddings: dict[int, FloatArray] = {}

        def encode(index: int) -> Encoded:
            encoded = sessions.encode_frame(options, clip[index : index + 1])
            if embed:
                embeddings[index] = sessions.embed_frame(options, encoded)
            return encoded

        steps: dict[Key, Step] = {}
        for index in range(len(clip)):
            frame, before = ("frame", index), ("frame", index - 1)
            steps[frame] = Step(partial(encode, index))
            if index:
                steps["forth", index] = Step(match, (before, frame), alone)
            if index and backward:
                steps["back", index] = Step(match, (frame, before), alone)
        in_order = dict(sorted(steps.items(), key=_place_in_clip))
        found = await run_steps(in_order, self._pool, self._free_lanes)
        return _of_kind("forth", found), _of_kind("back", found), [embeddings[i] for i in sorted(embeddings)]

    async def _run(self, function: Callable[..., FloatArray], *args: object) -> FloatArray:
        """What blocks, in the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

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


def _place_in_clip(step: tuple[Key, Step]) -> float:
    """Frames go one ahead: before the flow to the frame before them.

    Just in time, they leave the longest runs, flows, for the end, where one lane then waits for the other.
    """
    (kind, index), _ = step
    return index if kind == "frame" else index + 1.5


def _of_kind(kind: str, found: Mapping[Key, FloatArray]) -> list[FloatArray]:
    return [result for (name, _), result in found.items() if name == kind]


def _join(parts: Sequence[FloatArray]) -> FloatArray:
    """Along the first axis; the only one as it is."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _stack(clips: Sequence[Sequence[FloatArray]]) -> FloatArray | None:
    """Parts of each clip, one after the other, and the clips along a new first axis; None without parts."""
    return _join([_join(parts)[None] for parts in clips]) if clips[0] else None
