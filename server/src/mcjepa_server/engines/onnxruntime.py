"""The exported models in this process, on ONNX Runtime."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnxruntime as ort

from mcjepa_server.contract import EMBED, FLOW, FLOW_BIDIRECTIONAL, Contract, load_contract
from mcjepa_server.engine import EmbedOutput, FloatArray, FlowOutput, Uint8Array
from mcjepa_server.errors import ContractError, EngineError

#: Name, ONNX type, sizes (None where the size must be free in an input).
Tensor = tuple[str, str, tuple[int | None, ...]]


class OnnxRuntimeEngine:
    """One session a model; calls run in a bounded pool of threads, where ONNX Runtime lets go of the GIL."""

    name = "onnxruntime"

    def __init__(
        self, contract: Contract, sessions: Mapping[str, ort.InferenceSession], workers: int
    ) -> None:
        self._contract = contract
        self._sessions = sessions
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="onnxruntime")

    @classmethod
    def load(cls, repository: Path, intra_op_threads: int, workers: int) -> OnnxRuntimeEngine:
        """Reads a model repository. Blocking. Raises ContractError for anything missing or different."""
        contract = load_contract(repository)
        sessions = {}
        for name, (inputs, outputs) in _signatures(contract).items():
            session = _open(repository / name / "1" / "model.onnx", name, intra_op_threads)
            _check_tensors(name, "input", session.get_inputs(), inputs)
            _check_tensors(name, "output", session.get_outputs(), outputs)
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


def _signatures(contract: Contract) -> dict[str, tuple[list[Tensor], list[Tensor]]]:
    """What each graph must take and give."""
    size, side = contract.embedding_size, contract.embed_image_size
    frames: Tensor = ("frames", "tensor(uint8)", (None, None, None, None, 3))
    flow: Tensor = ("flow", "tensor(float)", (None, None, 2, None, None))
    backward: Tensor = ("flow_backward", "tensor(float)", (None, None, 2, None, None))
    embeddings: Tensor = ("embedding", "tensor(float)", (None, None, size))
    images: Tensor = ("images", "tensor(uint8)", (None, side, side, 3))
    embedding: Tensor = ("embedding", "tensor(float)", (None, size))
    return {
        FLOW: ([frames], [flow, embeddings]),
        FLOW_BIDIRECTIONAL: ([frames], [flow, backward, embeddings]),
        EMBED: ([images], [embedding]),
    }


def _open(path: Path, name: str, intra_op_threads: int) -> ort.InferenceSession:
    if not path.is_file():
        raise ContractError(f"{name}/1/model.onnx is missing from the model repository")
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    # A pattern is kept for every shape ever seen: a quarter less memory without, and no slower.
    options.enable_mem_pattern = False
    # Threads that spin while they wait nearly double the time of a run where the cores are shared.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors: its warnings are about optimising the graph
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ContractError(f"{name}/1/model.onnx cannot be loaded: {str(error)[:300]}") from error


def _check_tensors(name: str, role: str, found: list[Any], expected: list[Tensor]) -> None:
    """Raises ContractError naming the tensor that is missing, of another type or of another shape."""
    by_name = {node.name: node for node in found}
    if role == "input" and by_name.keys() != {tensor for tensor, _, _ in expected}:
        wanted = ", ".join(tensor for tensor, _, _ in expected)
        raise ContractError(f"{name}: the graph's inputs are {', '.join(by_name)}, expected {wanted}")
    for tensor, dtype, shape in expected:
        node = by_name.get(tensor)
        if node is None:
            raise ContractError(f"{name}: the graph has no output {tensor!r}, only {', '.join(by_name)}")
        if node.type != dtype or not _shape_fits(node.shape, shape, role):
            raise ContractError(
                f"{name}: {role} {tensor!r} is {node.type} {node.shape}, expected {dtype} {list(shape)}"
            )


def _shape_fits(found: list[Any], expected: tuple[int | None, ...], role: str) -> bool:
    """A fixed size may be unknown to the graph (the canary sees it); a free input size must be free."""
    if len(found) != len(expected):
        return False
    for have, want in zip(found, expected, strict=True):
        fixed = isinstance(have, int)
        if want is None and fixed and role == "input":
            return False
        if want is not None and fixed and have != want:
            return False
    return True
