"""An engine without weights, whose answers can be computed by hand, for tests."""

from __future__ import annotations

import asyncio
from typing import Literal

import numpy as np

from mcjepa_server.engines.base import EmbedOutput, FlowOutput
from mcjepa_server.engines.contract import NOT_MEASURED, Contract
from mcjepa_server.errors import EngineError
from mcjepa_server.types import FAST, QUALITIES, FloatArray, Quality, Uint8Array

Fault = Literal["fail", "hang", "nan", "shape"]

FAKE_CONTRACT = Contract(
    model_version="fake-0",
    weights_sha256="0" * 64,
    stride=64,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    embedding_size=8,
    embed_image_size=32,
    training_summary="not trained",
    license="Apache-2.0",
    max_batch_size=4,
    smallest_side=1,  # right at any size
    qualities={quality: NOT_MEASURED for quality in QUALITIES},
)


class FakeEngine:
    """Flow is (red / 16, -green / 16) px of the frame it starts from, pixel by pixel, in both directions.

    The embedding is the mean red, green and blue, then ones. ``fault`` makes every call fail, never end,
    or answer with NaN or a wrong shape. ``calls`` holds the input shapes, in order, ``qualities`` those of
    the flows.
    """

    name = "fake"
    clip_frames = 32

    def __init__(self, contract: Contract = FAKE_CONTRACT, fault: Fault | None = None) -> None:
        self._contract = contract
        self.fault = fault
        self.closed = False
        self.calls: list[tuple[int, ...]] = []
        self.qualities: list[Quality] = []

    @property
    def contract(self) -> Contract:
        return self._contract

    async def infer_flow(
        self, frames: Uint8Array, backward: bool, embed: bool = True, quality: Quality = FAST
    ) -> FlowOutput:
        self.qualities.append(quality)
        await self._misbehave(frames)
        flow = _colour_flow(frames[:, :-1])
        return FlowOutput(
            flow=self._spoil(flow),
            flow_backward=self._spoil(_colour_flow(frames[:, 1:])) if backward else None,
            embedding=self._mean_colour(frames) if embed else None,
        )

    async def infer_embed(self, images: Uint8Array) -> EmbedOutput:
        await self._misbehave(images)
        return EmbedOutput(self._spoil(self._mean_colour(images)))

    async def ready(self) -> bool:
        return self.fault != "fail"

    async def trim_memory(self) -> None:
        """It keeps none."""

    async def close(self) -> None:
        self.closed = True

    async def _misbehave(self, batch: Uint8Array) -> None:
        self.calls.append(batch.shape)
        if self.fault == "fail":
            raise EngineError("the fake engine was told to fail")
        if self.fault == "hang":
            await asyncio.Event().wait()

    def _spoil(self, array: FloatArray) -> FloatArray:
        if self.fault == "nan":
            array[..., -1] = np.nan
        return array[..., :-1] if self.fault == "shape" else array

    def _mean_colour(self, images: Uint8Array) -> FloatArray:
        mean = images.mean(axis=(-3, -2), dtype=np.float32)  # (..., 3)
        ones = np.ones((*mean.shape[:-1], self._contract.embedding_size - 3), np.float32)
        return np.concatenate([mean, ones], axis=-1)


def _colour_flow(frames: Uint8Array) -> FloatArray:
    """(B, M, H, W, 3) to (B, M, 2, H, W)."""
    return np.stack([frames[..., 0] / np.float32(16), frames[..., 1] / np.float32(-16)], axis=2)
