"""The exported models in this process, on ONNX Runtime."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnxruntime as ort

from mcjepa_server.contract import EMBED, FLOW, FLOW_BIDIRECTIONAL, MODEL_NAMES, Contract, load_contract
from mcjepa_server.engine import CLIP_FRAMES, EmbedOutput, FloatArray, FlowOutput, Uint8Array
from mcjepa_server.engines.graphs import Tensor, cannot_be_loaded, check_graph, graph_file
from mcjepa_server.errors import EngineError


class OnnxRuntimeEngine:
    """One session a model; calls run in a bounded pool of threads, where ONNX Runtime lets go of the GIL."""

    name = "onnxruntime"
    clip_frames = CLIP_FRAMES

    def __init__(
        self, contract: Contract, sessions: Mapping[str, ort.InferenceSession], workers: int
    ) -> None:
        self._contract = contract
        self._sessions = sessions
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="onnxruntime")

    @classmethod
    def load(
        cls, repository: Path, intra_op_threads: int, workers: int, names: Sequence[str] = MODEL_NAMES
    ) -> OnnxRuntimeEngine:
        """Reads a model repository, of which only the models in ``names`` can be run then.

        Blocking. Raises ContractError for anything missing or different.
        """
        contract = load_contract(repository)
        _share_arena()
        sessions = {}
        for name in names:
            session = _open(graph_file(repository, name), name, intra_op_threads)
            check_graph(contract, name, _tensors(session.get_inputs()), _tensors(session.get_outputs()))
            sessions[name] = session
        return cls(contract, sessions, workers)

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

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, model: str, feeds: dict[str, Uint8Array], outputs: list[str]) -> list[FloatArray]:
        """A cancelled call leaves the pool's queue, or is told to stop between two nodes of the graph."""
        options = ort.RunOptions()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, self._sessions[model].run, outputs, feeds, options)
        except asyncio.CancelledError:
            options.terminate = True
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise EngineError(f"{model} failed in ONNX Runtime") from error


def _share_arena() -> None:
    """One pool of memory for the sessions of this process: what one has freed, the others use."""
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, None)


def _open(path: Path, name: str, intra_op_threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    # A pattern is kept for every shape ever seen: a quarter less memory without, and no slower.
    options.enable_mem_pattern = False
    # What was computed is used, and its memory free again, as soon as can be: a quarter less memory.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.add_session_config_entry("session.use_env_allocators", "1")  # of _share_arena
    # Threads that spin while they wait nearly double the time of a run where the cores are shared.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors: its warnings are about optimising the graph
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise cannot_be_loaded(name, error) from error


def _tensors(nodes: Sequence[ort.NodeArg]) -> list[Tensor]:
    return [Tensor(node.name, node.type, node.shape) for node in nodes]
