"""Results of the pipeline as HTTP replies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mcjepa_server import flowcodec, formats
from mcjepa_server.contract import Contract
from mcjepa_server.engine import FloatArray
from mcjepa_server.flowcodec import Buffers, FlowType
from mcjepa_server.formats import EXTENSIONS
from mcjepa_server.geometry import Geometry
from mcjepa_server.negotiate import Offer
from mcjepa_server.pipeline import FlowOptions, FlowResult
from mcjepa_server.schemas import AnalyzeSummary, FlowSummary, Meta, PairSummary, VectorStats
from mcjepa_server.timing import Timings

Direction = Literal["forward", "backward", "both"]
#: Bytes a pixel of one flow that making these takes; the others send the memory of the flow.
_MAKING = {formats.PNG: 16, formats.KITTI: 40, formats.JSON: 16}

#: Headers of inference replies, for OpenAPI.
HEADERS = {
    "X-Request-ID": "The request's own id, or a new one.",
    "X-Model-Version": "Version of the model that answered.",
    "X-Inference-Time": "Milliseconds inside the engine.",
    "X-Queue-Time": "Milliseconds waiting for the engine.",
    "Server-Timing": "Milliseconds of every stage: decode, queue, inference, encode.",
}
CLIP_HEADERS = {
    **HEADERS,
    "X-Compute-Size": "WIDTHxHEIGHT at which flow was computed; the reply has the size of the frames.",
    "X-Quality": "How much was computed: fast, balanced or best.",
}
FLOW_HEADERS = {
    **CLIP_HEADERS,
    "X-Flow-Clipped-Pixels": "kitti: pixels beyond its range of +-512 px, marked as not valid.",
    "X-Flow-Max": "png: length in px drawn at full saturation; as max_flow it keeps colours steady.",
}


def encode_flow(
    result: FlowResult, offer: Offer, max_flow: float | None, dtype: FlowType, meta: Meta
) -> tuple[Buffers, dict[str, str]]:
    """Body and format-specific headers for the flow of one pair."""
    flow = result.flows[0]
    if offer is formats.FLO:
        return flowcodec.encode_flo(flow), {}
    if offer is formats.KITTI:
        body, clipped = flowcodec.encode_kitti(flow)
        return (body,), {"X-Flow-Clipped-Pixels": str(clipped)}
    if offer is formats.NPY:
        return flowcodec.encode_npy(flowcodec.flow_as(flow, dtype)), {}
    if offer is formats.PNG:
        body, scale = flowcodec.encode_png(flow, max_flow)
        return (body,), {"X-Flow-Max": f"{scale:.6g}"}
    if offer is formats.NPZ:
        return _npz(
            meta,
            flow=flowcodec.flow_as(flow, dtype),
            flow_backward=_first(_optional(result.flows_backward, dtype)),
            occlusion=_first(result.occlusion),
        ), {}
    summary = FlowSummary(meta=meta, **pair_summary(result, 0).model_dump())
    return (summary.model_dump_json().encode(),), {}


def encode_analysis(result: FlowResult, offer: Offer, dtype: FlowType, meta: Meta) -> Buffers:
    """Body for the flow and the embeddings of N frames."""
    if offer is formats.NPZ:
        return _npz(
            meta,
            flows=flowcodec.flow_as(result.flows, dtype),
            flows_backward=_optional(result.flows_backward, dtype),
            occlusion=result.occlusion,
            embeddings=result.embeddings,
        )
    assert result.embeddings is not None, "an analysis asks for them"
    pairs = [pair_summary(result, index) for index in range(len(result.flows))]
    summary = AnalyzeSummary(meta=meta, pairs=pairs, embeddings=result.embeddings.tolist())
    return (summary.model_dump_json().encode(),)


def reply_bytes(frames: int, geometry: Geometry, options: FlowOptions, offer: Offer, dtype: FlowType) -> int:
    """Return the bytes of the flow of N frames at the caller's size, and of the reply made of it."""
    pixels = geometry.width * geometry.height
    directions = 1 + options.backward
    each = directions * (8 if dtype == "float32" else 8 + 4) + options.occlusion
    once = 8 * (options.occlusion and not options.backward) + _MAKING.get(offer, 0)
    return pixels * ((frames - 1) * each + once)


def describe(
    frames: int, geometry: Geometry, contract: Contract, direction: Direction, options: FlowOptions
) -> Meta:
    return Meta(
        model_version=contract.model_version,
        weights_sha256=contract.weights_sha256,
        frames=frames,
        width=geometry.width,
        height=geometry.height,
        computed_width=geometry.scaled_width,
        computed_height=geometry.scaled_height,
        direction=direction,
        occlusion=options.occlusion,
        quality=options.quality,
    )


def pair_summary(result: FlowResult, index: int) -> PairSummary:
    return PairSummary(
        flow=vector_stats(result.flows[index]),
        flow_backward=None if result.flows_backward is None else vector_stats(result.flows_backward[index]),
        occluded_fraction=None if result.occlusion is None else float(result.occlusion[index].mean()),
    )


def vector_stats(flow: FloatArray) -> VectorStats:
    magnitude = np.hypot(flow[..., 0], flow[..., 1])
    dx, dy = flow.mean(axis=(0, 1), dtype=np.float64)
    return VectorStats(
        mean=(float(dx), float(dy)),
        mean_magnitude=float(magnitude.mean(dtype=np.float64)),
        median_magnitude=float(np.median(magnitude)),
        max_magnitude=float(magnitude.max()),
    )


class Reply(Response):
    """A body of several buffers, which are sent as they are: joining them would copy megabytes."""

    def __init__(self, buffers: Buffers, headers: Mapping[str, str], media_type: str) -> None:
        self._buffers = buffers
        length = str(sum(map(len, buffers)))
        super().__init__(headers={"Content-Length": length, **headers}, media_type=media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for left, buffer in zip(range(len(self._buffers) - 1, -1, -1), self._buffers, strict=True):
            await send({"type": "http.response.body", "body": buffer, "more_body": left > 0})


def flow_reply(body: Buffers, offer: Offer, stem: str, meta: Meta, timings: Timings) -> Response:
    """A reply with the headers that all flow replies carry."""
    headers = {
        "X-Model-Version": meta.model_version,
        "X-Compute-Size": f"{meta.computed_width}x{meta.computed_height}",
        "X-Quality": meta.quality,
        "Vary": "Accept",
        **timings.headers(),
    }
    if offer.name in EXTENSIONS:
        headers["Content-Disposition"] = f'inline; filename="{stem}.{EXTENSIONS[offer.name]}"'
    return Reply(body, headers, offer.media_type)


def _npz(meta: Meta, **arrays: NDArray[Any] | None) -> Buffers:
    """The arrays that are there, and ``meta`` as text, which NumPy reads without pickle."""
    present = {name: array for name, array in arrays.items() if array is not None}
    return flowcodec.encode_npz({**present, "meta": np.array(meta.model_dump_json())})


def _optional(flows: FloatArray | None, dtype: FlowType) -> NDArray[Any] | None:
    return None if flows is None else flowcodec.flow_as(flows, dtype)


def _first(array: NDArray[Any] | None) -> NDArray[Any] | None:
    return None if array is None else array[0]
