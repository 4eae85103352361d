"""The runs that calls of ONNX Runtime are made of: a frame encoded, two frames matched, images embedded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
import onnxruntime as ort

from mcjepa_server.engines.contract import Contract
from mcjepa_server.engines.signatures import (
    DETAILS,
    FRAME,
    MAPS,
    SMALL,
    Tensor,
    cannot_be_loaded,
    check_graph,
    details_part,
    graph_file,
    match_part,
    matched,
    parts_of,
)
from mcjepa_server.types import FAST, FloatArray, Quality, Uint8Array

#: A thread that waits for its part of the next node looks for it this long before it sleeps, in ONNX Runtime
#: from 1.26 on. Waking one takes longer than most nodes; one that never sleeps takes the core of others.
SPINNING = {
    "session.intra_op.spin_duration_us": "20",
    "session.intra_op.spin_backoff_max": "16",
    "session.force_spinning_stop": "1",  # at the end of a run
}


@dataclass(frozen=True)
class Encoded:
    """What is needed of a frame, whatever it is matched with."""

    maps: list[ort.OrtValue]  # a batch of one each, what is matched; of ONNX Runtime, which would copy them
    small: ort.OrtValue  # (1, 3, S, S) RGB, for the embedding


@dataclass(frozen=True)
class QualitySessions:
    """Graphs of one quality."""

    details: ort.InferenceSession | None  # of a frame, where the quality has them
    match: ort.InferenceSession
    match_alone: ort.InferenceSession  # with all threads


class QualitiesOnFirstUse(dict[Quality, QualitySessions]):
    """Graphs of the qualities, each opened when it is first asked for: they take 30 MB each."""

    def __init__(self, open_one: Callable[[Quality], QualitySessions]) -> None:
        super().__init__()
        self._open_one = open_one
        self._lock = Lock()

    def __missing__(self, quality: Quality) -> QualitySessions:
        with self._lock:
            if quality not in self:
                self[quality] = self._open_one(quality)
            return self[quality]


@dataclass(frozen=True)
class Sessions:
    """Graphs that are open. Each method is a run, blocks, and may be called from several threads at once."""

    frame: ort.InferenceSession
    qualities: Mapping[Quality, QualitySessions]
    embed: ort.InferenceSession

    @classmethod
    def open(cls, repository: Path, contract: Contract, threads: int, lanes: int) -> Sessions:
        """For so many runs at once, and threads of all of them together.

        Runs that are at once share what threads a session has, and each has the one that calls it. Raises
        ContractError for anything missing or different.
        """
        _share_arena()
        shared = threads - lanes + 1
        open_one = partial(_open, repository, contract)

        def of_quality(quality: Quality) -> QualitySessions:
            match = open_one(match_part(quality), shared)
            return QualitySessions(
                details=None if quality == FAST else open_one(details_part(quality), shared),
                match=match,
                match_alone=match if lanes == 1 else open_one(match_part(quality), threads),
            )

        for quality in contract.qualities:
            for name in parts_of(quality):
                graph_file(repository, name)  # what is missing shows now
        qualities = QualitiesOnFirstUse(of_quality)
        qualities[FAST]  # which canaries need
        return cls(frame=open_one(FRAME, shared), qualities=qualities, embed=open_one(SMALL, shared))

    def encode_frame(self, options: ort.RunOptions, frame: Uint8Array, quality: Quality = FAST) -> Encoded:
        """(1, H, W, 3) RGB."""
        feeds = {"frames": ort.OrtValue.ortvalue_from_numpy(frame)}
        *maps, small = self.frame.run_with_ort_values([*MAPS, "small"], feeds, options)
        if (details := self.qualities[quality].details) is not None:
            maps += details.run_with_ort_values([DETAILS], feeds, options)
        return Encoded(maps, small)

    def match_frames(
        self,
        options: ort.RunOptions,
        flow: FloatArray,
        quality: Quality,
        one: Encoded,
        two: Encoded,
        alone: bool = False,
    ) -> None:
        """Into `flow` (1, 2, H, W) px, from one to two; with all threads where nothing else runs.

        Both were encoded for this quality.
        """
        sessions = self.qualities[quality]
        session = sessions.match_alone if alone else sessions.match
        binding = session.io_binding()
        names = (*matched(quality, "start"), *matched(quality, "end"))
        for name, value in zip(names, (*one.maps, *two.maps), strict=True):
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output("flow", ort.OrtValue.ortvalue_from_numpy(flow))  # the very memory
        session.run_with_iobinding(binding, options)

    def embed_frame(self, options: ort.RunOptions, frame: Encoded) -> FloatArray:
        """(1, D)."""
        return self._embed(options, frame.small.numpy())

    def embed_images(self, options: ort.RunOptions, images: Uint8Array) -> FloatArray:
        """(B, S, S, 3) RGB to (B, D)."""
        return self._embed(options, np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32))

    def _embed(self, options: ort.RunOptions, small: FloatArray) -> FloatArray:
        embedding: FloatArray = self.embed.run(["embedding"], {"small": small}, options)[0]
        return embedding


def _share_arena() -> None:
    """One pool of memory for the sessions of this process: what one has freed, the others use."""
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, None)


def _open(repository: Path, contract: Contract, name: str, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A pattern is kept for every shape ever seen: a quarter less memory without, and no slower.
    options.enable_mem_pattern = False
    # What was computed is used, and its memory free again, as soon as can be: a quarter less memory.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.add_session_config_entry("session.use_env_allocators", "1")  # of _share_arena
    for key, value in SPINNING.items():
        options.add_session_config_entry(key, value)
    options.log_severity_level = 3  # errors: its warnings are about optimising the graph
    path = graph_file(repository, name)
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise cannot_be_loaded(name, error) from error
    check_graph(contract, name, _tensors(session.get_inputs()), _tensors(session.get_outputs()))
    return session


def _tensors(nodes: Sequence[ort.NodeArg]) -> list[Tensor]:
    return [Tensor(node.name, node.type, node.shape) for node in nodes]
