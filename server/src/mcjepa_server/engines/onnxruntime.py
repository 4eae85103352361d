"""The exported models in this process, on ONNX Runtime."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort

from mcjepa_server.config import usable_cores
from mcjepa_server.engines.base import EmbedOutput, FlowOutput
from mcjepa_server.engines.contract import EMBED, FLOW, Contract, load_contract
from mcjepa_server.engines.ort_scheduler import Key, Step, run_steps
from mcjepa_server.engines.ort_sessions import Encoded, Sessions
from mcjepa_server.errors import EngineError
from mcjepa_server.types import FAST, FloatArray, Quality, Uint8Array

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

    async def infer_flow(
        self, frames: Uint8Array, backward: bool, embed: bool = True, quality: Quality = FAST
    ) -> FlowOutput:
        b, n, h, w, _ = frames.shape
        forth = np.empty((b, n - 1, 2, h, w), np.float32)
        back = np.empty_like(forth) if backward else None
        embeddings = np.empty((b, n, self._contract.embedding_size), np.float32) if embed else None
        output = FlowOutput(forth, back, embeddings)
        async with self._call(FLOW) as options:
            for index in range(b):
                steps = self._steps(frames[index], output, index, quality, options)
                await run_steps(steps, self._pool, self._free_lanes)
        return output

    async def infer_embed(self, images: Uint8Array) -> EmbedOutput:
        async with self._call(EMBED) as options:
            embed = partial(self._sessions.embed_images, options)
            parts = np.array_split(images, min(self._free_lanes(), len(images)))
            steps = {("embedding", index): Step(partial(embed, part)) for index, part in enumerate(parts)}
            found = await run_steps(steps, self._pool, self._free_lanes)
        return EmbedOutput(np.concatenate(list(found.values())))

    async def ready(self) -> bool:
        return True

    async def trim_memory(self) -> None:
        """The arena shrinks at the end of a run that asks for it; the shortest run does."""
        if self._callers or not self._grown:
            return
        side = self._contract.embed_image_size
        async with self._call(EMBED) as options:
            self._grown = False  # unless another call begins meanwhile
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
            image = np.zeros((1, side, side, 3), np.uint8)
            step = Step(partial(self._sessions.embed_images, options, image))
            await run_steps({("embedding", 0): step}, self._pool, self._free_lanes)

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _steps(
        self, frames: Uint8Array, output: FlowOutput, clip: int, quality: Quality, options: ort.RunOptions
    ) -> dict[Key, Step]:
        """Of the frames (N, H, W, 3) of a clip, each into its place of what there is of the output.

        Each frame is encoded once, and kept for no longer than a flow needs it.
        """
        sessions = self._sessions

        def encode(index: int) -> Encoded:
            encoded = sessions.encode_frame(options, frames[index : index + 1], quality)
            if output.embedding is not None:
                output.embedding[clip, index] = sessions.embed_frame(options, encoded)[0]
            return encoded

        def match(flows: FloatArray, index: int, needs: tuple[Key, Key]) -> Step:
            run = partial(sessions.match_frames, options, flows[clip, index : index + 1], quality)
            return Step(run, needs, partial(run, alone=True))

        steps: dict[Key, Step] = {}
        for index in range(len(frames)):
            frame, after = ("frame", index), ("frame", index + 1)
            steps[frame] = Step(partial(encode, index))
            if index < len(frames) - 1:
                steps["forth", index] = match(output.flow, index, (frame, after))
                if output.flow_backward is not None:
                    steps["back", index] = match(output.flow_backward, index, (after, frame))
        return dict(sorted(steps.items(), key=_place_in_clip))

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
    """Frames go one ahead: before the flow between the two frames before them.

    Just in time, they leave the longest runs, flows, for the end, where one lane then waits for the other.
    """
    (kind, index), _ = step
    return index if kind == "frame" else index + 2.5
