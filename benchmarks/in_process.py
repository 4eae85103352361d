"""The engine alone, and with what a request needs besides: decoding, encoding. In this process."""

from __future__ import annotations

import asyncio
from pathlib import Path

from common import Uint8Array, encode_png, run_and_forget, take_turns
from mcjepa_server.api.flow_encoding import encode_flo
from mcjepa_server.decoding.images import decode_image
from mcjepa_server.engines.onnxruntime import OnnxRuntimeEngine
from mcjepa_server.imaging.geometry import Padding, plan_geometry
from mcjepa_server.imaging.limits import PixelBudget
from mcjepa_server.imaging.resize import pack_clip, unpack_flow
from mcjepa_server.observability.malloc import GATEWAY_BYTES, keep_freed_memory
from mcjepa_server.types import Buffers


class InProcess:
    """With the heap of the gateway, without which it would be slower."""

    def __init__(self, repository: Path, pair: Uint8Array, threads: int) -> None:
        keep_freed_memory(GATEWAY_BYTES)
        height, width = pair.shape[1:3]
        self._engine = OnnxRuntimeEngine.load(repository, threads, workers=1)
        self._files = [encode_png(frame) for frame in pair]
        self._budget = PixelBudget(2 * width * height, 2 * width * height)
        self._geometry = plan_geometry(width, height, Padding(64), max(width, height), width * height)
        self._clip = pack_clip(list(pair), self._geometry)

    def measure(self, rounds: int) -> dict[str, dict[str, float]]:
        """Quantiles of wall time, and processor time, ms."""
        calls = {
            "engine": lambda: run_and_forget(self._infer()),
            "decode + engine + encode": lambda: run_and_forget(self._serve()),
        }
        return take_turns(calls, rounds).rows()

    def close(self) -> None:
        asyncio.run(self._engine.close())

    async def _infer(self) -> None:
        await self._engine.infer_flow(self._clip, backward=False, embed=False)

    async def _serve(self) -> Buffers:
        clip = pack_clip([decode_image(data, "frame", self._budget) for data in self._files], self._geometry)
        output = await self._engine.infer_flow(clip, backward=False, embed=False)
        return encode_flo(unpack_flow(output.flow[0], self._geometry)[0])
