"""The exported models in this process, on OpenVINO."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from mcjepa_server.engines.base import EmbedOutput, FlowOutput, both_ways, from_both_ways
from mcjepa_server.engines.contract import (
    EMBED,
    FLOW_BIDIRECTIONAL,
    Contract,
    flow_model,
    load_contract,
    model_names,
)
from mcjepa_server.engines.signatures import Tensor, cannot_be_loaded, check_graph, graph_file
from mcjepa_server.errors import EngineError
from mcjepa_server.types import FAST, FloatArray, Quality, Uint8Array

if TYPE_CHECKING:  # an optional requirement, imported when an engine is loaded
    import openvino as ov

_ONNX_TYPES = {"u8": "tensor(uint8)", "f32": "tensor(float)"}


class OpenVinoEngine:
    """One compiled model of free shapes each, which `workers` calls can run at once.

    A request object holds the memory of one inference; there are `workers` of them for each model.
    """

    name = "openvino"
    # The flows of a call are one batch: of more than two it falls out of the caches, and takes memory; of
    # one, each frame is encoded too often (measured with benchmarks/engines.py).
    clip_frames = 3

    def __init__(self, contract: Contract, models: Mapping[str, ov.CompiledModel], workers: int) -> None:
        self._contract = contract
        self._idle: dict[str, SimpleQueue[ov.InferRequest]] = {name: SimpleQueue() for name in models}
        for name, model in models.items():
            for _ in range(workers):
                self._idle[name].put(model.create_infer_request())
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="openvino")

    @classmethod
    def load(
        cls, repository: Path, intra_op_threads: int, workers: int, cache_dir: Path | None = None
    ) -> OpenVinoEngine:
        """Reads a model repository. Blocking. Raises ContractError for anything missing or different.

        ``cache_dir`` keeps what was compiled for the next start. Raises ImportError without OpenVINO.
        """
        contract = load_contract(repository)
        core = _core()
        properties = _properties(intra_op_threads, workers, cache_dir)
        models = {}
        for name in model_names(contract.qualities):
            path = graph_file(repository, name)
            try:
                model = core.read_model(path)
                check_graph(contract, name, _tensors(model.inputs), _tensors(model.outputs))
                models[name] = core.compile_model(model, "CPU", properties)
            except RuntimeError as error:  # OpenVINO's own are no more precise
                raise cannot_be_loaded(name, error) from error
        return cls(contract, models, workers)

    @property
    def contract(self) -> Contract:
        return self._contract

    async def infer_flow(
        self, frames: Uint8Array, backward: bool, embed: bool = True, quality: Quality = FAST
    ) -> FlowOutput:
        if backward and quality != FAST:  # there is no model of both directions
            return from_both_ways(await self.infer_flow(both_ways(frames), False, embed, quality))
        model = FLOW_BIDIRECTIONAL if backward else flow_model(quality)
        names = ["flow", *(["flow_backward"] if backward else []), *(["embedding"] if embed else [])]
        found = dict(zip(names, await self._run(model, frames, names), strict=True))
        return FlowOutput(found["flow"], found.get("flow_backward"), found.get("embedding"))

    async def infer_embed(self, images: Uint8Array) -> EmbedOutput:
        (embedding,) = await self._run(EMBED, images, ["embedding"])
        return EmbedOutput(embedding)

    async def ready(self) -> bool:
        return True

    async def trim_memory(self) -> None:
        """A request object keeps the memory of its last inference."""

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, model: str, batch: Uint8Array, outputs: list[str]) -> list[FloatArray]:
        """A cancelled call leaves the pool's queue, or is told to stop between two nodes of the graph."""
        call = _Call(self._idle[model], batch, outputs)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, call.run)
        except asyncio.CancelledError:
            call.cancel()
            raise
        except RuntimeError as error:
            raise EngineError(f"{model} failed in OpenVINO") from error


class _Call:
    """One inference, in a thread of the pool, on a request object that is idle."""

    def __init__(self, idle: SimpleQueue[ov.InferRequest], batch: Uint8Array, outputs: list[str]) -> None:
        self._idle = idle
        self._batch = np.ascontiguousarray(batch)
        self._outputs = outputs
        self._lock = Lock()
        self._running: ov.InferRequest | None = None

    def run(self) -> list[FloatArray]:
        import openvino as ov

        request = self._idle.get_nowait()  # as many as the pool has threads
        self._running = request
        try:
            request.set_input_tensor(ov.Tensor(self._batch, shared_memory=True))
            request.infer()
            # copies: the next inference writes over the tensors
            return [request.get_tensor(name).data.copy() for name in self._outputs]
        finally:
            with self._lock:
                self._running = None
            self._idle.put(request)

    def cancel(self) -> None:
        with self._lock:  # else it might be the next call's by now
            if self._running is not None:
                self._running.cancel()


@cache
def _core() -> ov.Core:
    """The one of this process, which never goes.

    The plugin for processors gives the thread that loads it a stack for signals, and unmaps that with its
    last user, in whatever thread this happens: the next signal would then end the process.
    """
    import openvino as ov

    return ov.Core()


def _properties(intra_op_threads: int, workers: int, cache_dir: Path | None) -> dict[str, object]:
    properties: dict[str, object] = {
        "NUM_STREAMS": workers,
        "INFERENCE_PRECISION_HINT": "f32",  # as the graph says: bfloat16 would spoil the flow
        # Pinned threads of two processes would share one core while another is idle.
        "ENABLE_CPU_PINNING": False,
    }
    if intra_op_threads:
        properties["INFERENCE_NUM_THREADS"] = intra_op_threads * workers  # of all streams together
    if cache_dir is not None:
        properties["CACHE_DIR"] = str(cache_dir)
    return properties


def _tensors(ports: Sequence[ov.Output]) -> list[Tensor]:
    found = []
    for port in ports:
        kind = port.element_type.get_type_name()
        found.append(Tensor(port.any_name, _ONNX_TYPES.get(kind, kind), _sizes(port)))
    return found


def _sizes(port: ov.Output) -> list[int | None]:
    shape = port.partial_shape
    if shape.rank.is_dynamic:
        return []
    return [size.get_length() if size.is_static else None for size in shape]
