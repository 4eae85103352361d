"""Engines and classical flow in one process, taking turns on the same real frames."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from common import HEIGHT, WIDTH, Turns, Uint8Array, rounded, run_and_forget, take_turns
from mcjepa_server.engines.base import Engine
from mcjepa_server.engines.onnxruntime import OnnxRuntimeEngine
from mcjepa_server.engines.openvino import OpenVinoEngine
from mcjepa_server.imaging.geometry import split_clip
from mcjepa_server.imaging.resize import resize_square

CLIP, BATCH = 16, 32
#: Of times, and how their ratios are marked.
KINDS: dict[Literal["cpu", "wall"], str] = {"cpu": "", "wall": ", wall"}


def measure(repository: Path, frames: Uint8Array, threads: int, rounds: int) -> dict[str, Any]:
    """Times of every engine and peer, all in the same rounds; ratios to DIS medium; share of the roofline."""
    cv2.setNumThreads(threads)
    engines: dict[str, Engine] = {
        "onnxruntime": OnnxRuntimeEngine.load(repository, threads, workers=1),
        "openvino": OpenVinoEngine.load(repository, threads, workers=1),
    }
    calls = classical(frames[:2])
    for name, engine in engines.items():
        calls |= calls_of(name, engine, frames)
    turns = take_turns(calls, rounds)
    for used in engines.values():
        asyncio.run(used.close())
    return {
        "times_ms": turns.rows(),
        "ratios": ratios(turns, list(engines)),
        "roofline": roofline(repository, turns),
    }


def calls_of(name: str, engine: Engine, frames: Uint8Array) -> dict[str, Callable[[], object]]:
    """Flow of a pair and of a clip, embeddings of one image and of a batch."""
    squares = np.stack([resize_square(frame, engine.contract.embed_image_size) for frame in frames])
    batch = np.concatenate([squares] * (BATCH // CLIP))
    return {
        f"pair, {name}": flow_of(engine, frames[:2]),
        f"clip of {CLIP}, {name}": flow_in_pieces(engine, frames),
        f"embedding, {name}": embedding_of(engine, batch[:1]),
        f"{BATCH} embeddings, {name}": embedding_of(engine, batch),
    }


def flow_of(engine: Engine, frames: Uint8Array) -> Callable[[], object]:
    return lambda: run_and_forget(engine.infer_flow(frames[None], backward=False, embed=False))


def flow_in_pieces(engine: Engine, frames: Uint8Array) -> Callable[[], object]:
    """As the gateway does it."""
    pieces = [flow_of(engine, frames[piece]) for piece in split_clip(len(frames), engine.clip_frames)]
    return lambda: [run() for run in pieces]


def embedding_of(engine: Engine, images: Uint8Array) -> Callable[[], object]:
    return lambda: run_and_forget(engine.infer_embed(images))


def classical(pair: Uint8Array) -> dict[str, Callable[[], object]]:
    grey1, grey2 = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in pair)
    empty = np.zeros((HEIGHT, WIDTH, 2), np.float32)

    def dis(preset: int) -> Callable[[], object]:
        method = cv2.DISOpticalFlow.create(preset)
        return lambda: method.calc(grey1, grey2, empty.copy())

    return {
        "Farneback": lambda: cv2.calcOpticalFlowFarneback(
            grey1, grey2, empty.copy(), 0.5, 5, 15, 3, 5, 1.1, 0
        ),
        "DIS ultrafast": dis(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST),
        "DIS fast": dis(cv2.DISOPTICAL_FLOW_PRESET_FAST),
        "DIS medium": dis(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM),
    }


def ratios(turns: Turns, engines: list[str]) -> dict[str, float]:
    """Of processor time, and of wall time, which differs where threads wait for each other."""
    found = {}
    for name in engines:
        pair, clip = f"pair, {name}", f"clip of {CLIP}, {name}"
        one, batch = f"embedding, {name}", f"{BATCH} embeddings, {name}"
        for kind, note in KINDS.items():
            found[f"pair / DIS medium, {name}{note}"] = turns.ratio(pair, "DIS medium", kind)
            found[f"flow of a clip / pair, {name}{note}"] = turns.ratio(clip, pair, kind) / (CLIP - 1)
            found[f"{BATCH} single embeddings / batch, {name}{note}"] = BATCH * turns.ratio(one, batch, kind)
    return {name: rounded(value) for name, value in found.items()}


def roofline(repository: Path, turns: Turns) -> dict[str, float]:
    """The pair's operations over what a matrix product reaches in the same processor time."""
    macs = multiplications(repository / "mcjepa_flow" / "1" / "model.onnx")
    peak = gemm_peak()  # not in turn with the others: OpenBLAS's threads look for more work for 0.1 s
    share = 2 * macs / (np.median(turns.cpu["pair, onnxruntime"]) / 1000) / peak
    return {"gmac": rounded(macs / 1e9), "gemm_gflops_per_core": rounded(peak / 1e9), "share": rounded(share)}


def multiplications(path: Path) -> int:
    """Multiply-accumulates of convolutions and matrix products in the graph of a pair."""
    import openvino as ov

    model = ov.Core().read_model(path)
    model.reshape({"frames": [1, 2, HEIGHT, WIDTH, 3]})
    total = 0
    for op in model.get_ops():
        kind = op.get_type_name()
        if kind in ("Convolution", "GroupConvolution"):
            kernel = op.input(1).get_shape()
            total += prod(op.output(0).get_shape()) * prod(kernel[1 if kind == "Convolution" else 2 :])
        elif kind == "MatMul":
            inner = op.input(0).get_shape()[-2 if op.get_attributes()["transpose_a"] else -1]
            total += prod(op.output(0).get_shape()) * inner
    return total


def gemm_peak(size: int = 1536, runs: int = 5) -> float:
    """Operations a second of processor time, of the best float32 matrix product."""
    a = np.random.default_rng(0).random((size, size), np.float32)
    best = np.inf
    for _ in range(runs):
        began = time.process_time()
        a @ a
        best = min(best, time.process_time() - began)
    return float(2 * size**3 / best)
