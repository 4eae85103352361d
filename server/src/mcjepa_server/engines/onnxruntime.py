"""The exported models in this process, on ONNX Runtime."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort

from mcjepa_server.contract import EMBED, FLOW, FLOW_BIDIRECTIONAL, MODEL_NAMES, Contract, load_contract
from mcjepa_server.cores import usable_cores
from mcjepa_server.engine import CLIP_FRAMES, EmbedOutput, FloatArray, FlowOutput, Uint8Array
from mcjepa_server.engines.graphs import Tensor, cannot_be_loaded, check_graph, graph_file
from mcjepa_server.errors import EngineError

#: A thread that waits for its part of the next node looks for it this long before it sleeps, in ONNX Runtime
#: from 1.26 on. Waking one takes longer than most nodes; one that never sleeps takes the core of others.
SPINNING = {
    "session.intra_op.spin_duration_us": "20",
    "session.intra_op.spin_backoff_max": "16",
    "session.force_spinning_stop": "1",  # at the end of a run
}

Sessions = Mapping[str, ort.InferenceSession]


class OnnxRuntimeEngine:
    """Calls run in a bounded pool of threads, where ONNX Runtime lets go of the GIL.

    A call that is alone has all threads, for its latency. One that begins beside another has its share, for
    the throughput of both: a thread that waits for no other does more. So models of flow are in two sessions.
    One image to embed has one thread, for two would be no faster and take twice as much of the processor.
    """

    name = "onnxruntime"
    clip_frames = CLIP_FRAMES

    def __init__(
        self, contract: Contract, alone: Sessions, beside: Sessions, single: Sessions, workers: int
    ) -> None:
        self._contract = contract
        self._alone = alone
        self._beside = beside
        self._single = single  # of one image
        self._running = 0
        self._grown = False  # the arena, since it was last given back
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="onnxruntime")

    @classmethod
    def load(cls, repository: Path, intra_op_threads: int, workers: int) -> OnnxRuntimeEngine:
        """Reads a model repository.

        ``intra_op_threads`` are those of a call that is alone, 0 is one per core; at most ``workers`` calls
        run at once. Blocking. Raises ContractError for anything missing or different.
        """
        contract = load_contract(repository)
        _share_arena()
        threads = intra_op_threads or usable_cores()
        share = max(1, threads // workers)
        alone = _open_all(repository, contract, MODEL_NAMES, threads)
        beside = alone
        if share < threads:  # a batch of images takes few more of the processor with all of them
            beside = {**alone, **_open_all(repository, contract, (FLOW, FLOW_BIDIRECTIONAL), share)}
        single = alone
        if threads > 1:
            single = _open_all(repository, contract, (EMBED,), 1)
        return cls(contract, alone, beside, single, workers)

    @property
    def contract(self) -> Contract:
        return self._contract

    async def infer_flow(self, frames: Uint8Array, backward: bool) -> FlowOutput:
        model = FLOW_BIDIRECTIONAL if backward else FLOW
        names = ["flow", "embedding", *(["flow_backward"] if backward else [])]
        flow, embedding, *rest = await self._run(model, {"frames": frames}, names)
        return FlowOutput(flow=flow, flow_backward=rest[0] if rest else None, embedding=embedding)

    async def infer_embed(self, images: Uint8Array) -> EmbedOutput:
        (embedding,) = await self._run(EMBED, {"images": images}, ["embedding"])
        return EmbedOutput(embedding)

    async def ready(self) -> bool:
        return True

    async def give_back(self) -> None:
        """The arena shrinks at the end of a run that asks for it; the shortest run does."""
        if self._running or not self._grown:
            return
        side = self._contract.embed_image_size
        images = np.zeros((1, side, side, 3), np.uint8)
        await self._run(EMBED, {"images": images}, ["embedding"], shrink=True)

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(
        self, model: str, feeds: dict[str, Uint8Array], outputs: list[str], shrink: bool = False
    ) -> list[FloatArray]:
        """A cancelled call leaves the pool's queue, or is told to stop between two nodes of the graph."""
        options = ort.RunOptions()
        if shrink:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._grown = not shrink
        session = self._session(model, feeds)
        self._running += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, session.run, outputs, feeds, options)
        except asyncio.CancelledError:
            options.terminate = True
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise EngineError(f"{model} failed in ONNX Runtime") from error
        finally:
            self._running -= 1

    def _session(self, model: str, feeds: dict[str, Uint8Array]) -> ort.InferenceSession:
        if model == EMBED and len(feeds["images"]) == 1:
            return self._single[model]
        return (self._beside if self._running else self._alone)[model]


def _share_arena() -> None:
    """One pool of memory for the sessions of this process: what one has freed, the others use."""
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, None)


def _open_all(repository: Path, contract: Contract, names: Sequence[str], threads: int) -> Sessions:
    sessions = {}
    for name in names:
        session = _open(graph_file(repository, name), name, threads)
        check_graph(contract, name, _tensors(session.get_inputs()), _tensors(session.get_outputs()))
        sessions[name] = session
    return sessions


def _open(path: Path, name: str, intra_op_threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    # A pattern is kept for every shape ever seen: a quarter less memory without, and no slower.
    options.enable_mem_pattern = False
    # What was computed is used, and its memory free again, as soon as can be: a quarter less memory.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.add_session_config_entry("session.use_env_allocators", "1")  # of _share_arena
    for key, value in SPINNING.items():
        options.add_session_config_entry(key, value)
    options.log_severity_level = 3  # errors: its warnings are about optimising the graph
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise cannot_be_loaded(name, error) from error


def _tensors(nodes: Sequence[ort.NodeArg]) -> list[Tensor]:
    return [Tensor(node.name, node.type, node.shape) for node in nodes]
