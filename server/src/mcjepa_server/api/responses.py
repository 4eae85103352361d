"""Results of the pipeline as HTTP replies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mcjepa_server.api.flow_encoding import FlowType
from mcjepa_server.api.formats import ResponseFormat
from mcjepa_server.api.schemas import Meta
from mcjepa_server.engines.contract import Contract
from mcjepa_server.imaging.geometry import Geometry
from mcjepa_server.observability.timing import Timings
from mcjepa_server.scheduling.pipeline import FlowOptions
from mcjepa_server.types import Buffers

Direction = Literal["forward", "backward", "both"]
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


def reply_bytes(
    frames: int, geometry: Geometry, options: FlowOptions, offer: ResponseFormat, dtype: FlowType
) -> int:
    """Return the bytes of the flow of N frames at the caller's size, and of the reply made of it."""
    pixels = geometry.width * geometry.height
    directions = 1 + options.backward
    each = directions * (8 if dtype == "float32" else 8 + 4) + options.occlusion
    once = 8 * (options.occlusion and not options.backward) + offer.working_bytes
    return pixels * ((frames - 1) * each + once)


def build_meta(
    frames: int, geometry: Geometry, contract: Contract, direction: Direction, options: FlowOptions
) -> Meta:
    """Return how the reply for so many frames comes about."""
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


def flow_reply(body: Buffers, offer: ResponseFormat, stem: str, meta: Meta, timings: Timings) -> Response:
    """A reply with the headers that all flow replies carry."""
    headers = {
        "X-Model-Version": meta.model_version,
        "X-Compute-Size": f"{meta.computed_width}x{meta.computed_height}",
        "X-Quality": meta.quality,
        "Vary": "Accept",
        **timings.headers(),
    }
    if offer.extension is not None:
        headers["Content-Disposition"] = f'inline; filename="{stem}.{offer.extension}"'
    return Reply(body, headers, offer.media_type)
