"""Results of the pipeline as HTTP replies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from mcjepa_server import flowcodec, formats
from mcjepa_server.contract import Contract
from mcjepa_server.engine import FloatArray
from mcjepa_server.formats import EXTENSIONS
from mcjepa_server.geometry import Geometry
from mcjepa_server.negotiate import Offer
from mcjepa_server.pipeline import FlowResult
from mcjepa_server.schemas import AnalyzeMeta, AnalyzeSummary, FlowSummary, PairSummary, VectorStats
from mcjepa_server.timing import Timings

#: Headers of inference replies, for OpenAPI.
HEADERS = {
    "X-Request-ID": "The request's own id, or a new one.",
    "X-Model-Version": "Version of the model that answered.",
    "X-Inference-Time": "Milliseconds inside the engine.",
    "X-Queue-Time": "Milliseconds waiting for the engine.",
    "Server-Timing": "Milliseconds of every stage: decode, queue, inference, encode.",
}
FLOW_HEADERS = {
    **HEADERS,
    "X-Compute-Size": "WIDTHxHEIGHT at which flow was computed; the reply has the size of the frames.",
    "X-Flow-Clipped-Pixels": "kitti: pixels beyond its range of +-512 px, marked as not valid.",
    "X-Flow-Max": "png: length in px drawn at full saturation; as max_flow it keeps colours steady.",
}


def encode_flow(
    result: FlowResult, offer: Offer, max_flow: float | None, contract: Contract
) -> tuple[bytes, dict[str, str]]:
    """Body and format-specific headers for the flow of one pair."""
    flow = result.flows[0]
    if offer is formats.FLO:
        return flowcodec.encode_flo(flow), {}
    if offer is formats.KITTI:
        body, clipped = flowcodec.encode_kitti(flow)
        return body, {"X-Flow-Clipped-Pixels": str(clipped)}
    if offer is formats.NPY:
        return flowcodec.encode_npy(flow), {}
    if offer is formats.PNG:
        body, scale = flowcodec.encode_png(flow, max_flow)
        return body, {"X-Flow-Max": f"{scale:.6g}"}
    if offer is formats.NPZ:
        return _pair_npz(result), {}
    return _pair_json(result, contract), {}


def encode_analysis(result: FlowResult, offer: Offer, meta: AnalyzeMeta) -> bytes:
    """Body for the flow and the embeddings of N frames."""
    if offer is formats.JSON:
        pairs = [pair_summary(result, index) for index in range(len(result.flows))]
        summary = AnalyzeSummary(meta=meta, pairs=pairs, embeddings=result.embeddings.tolist())
        return summary.model_dump_json().encode()
    arrays: dict[str, NDArray[Any]] = {"flows": result.flows, "embeddings": result.embeddings}
    if result.flows_backward is not None:
        arrays["flows_backward"] = result.flows_backward
    if result.occlusion is not None:
        arrays["occlusion"] = result.occlusion
    arrays["meta"] = np.array(meta.model_dump_json())
    return flowcodec.encode_npz(arrays)


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


def flow_reply(
    body: bytes, offer: Offer, stem: str, geometry: Geometry, contract: Contract, timings: Timings
) -> Response:
    """A reply with the headers that all flow replies carry."""
    headers = {
        "X-Model-Version": contract.model_version,
        "X-Compute-Size": f"{geometry.scaled_width}x{geometry.scaled_height}",
        "Vary": "Accept",
        **timings.headers(),
    }
    if offer.name in EXTENSIONS:
        headers["Content-Disposition"] = f'inline; filename="{stem}.{EXTENSIONS[offer.name]}"'
    return Response(body, media_type=offer.media_type, headers=headers)


def _pair_npz(result: FlowResult) -> bytes:
    arrays: dict[str, NDArray[Any]] = {"flow": result.flows[0]}
    if result.flows_backward is not None:
        arrays["flow_backward"] = result.flows_backward[0]
    if result.occlusion is not None:
        arrays["occlusion"] = result.occlusion[0]
    return flowcodec.encode_npz(arrays)


def _pair_json(result: FlowResult, contract: Contract) -> bytes:
    geometry = result.geometry
    summary = FlowSummary(
        **pair_summary(result, 0).model_dump(),
        model_version=contract.model_version,
        width=geometry.width,
        height=geometry.height,
        computed_width=geometry.scaled_width,
        computed_height=geometry.scaled_height,
    )
    return summary.model_dump_json().encode()
