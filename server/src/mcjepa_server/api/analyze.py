"""POST /v1/analyze: N frames in, the flow between neighbours and the embedding of each out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from mcjepa_server.api import formats
from mcjepa_server.api.flow_encoding import FlowType
from mcjepa_server.api.formats import EncodeOptions, choose_format
from mcjepa_server.api.parameters import (
    FILE,
    INFERENCE_ERRORS,
    arrive,
    begin,
    decode_frames,
    header_docs,
    inference_docs,
    multipart_schema,
)
from mcjepa_server.api.request_body import MULTIPART, Form, body_type, read_form
from mcjepa_server.api.responses import CLIP_HEADERS, build_meta, flow_reply
from mcjepa_server.errors import InvalidInput, NotAcceptable
from mcjepa_server.http.problems import documented
from mcjepa_server.scheduling.pipeline import FlowOptions
from mcjepa_server.scheduling.request import inference_request
from mcjepa_server.types import Quality

router = APIRouter(tags=["inference"])


class AnalyzeQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    direction: Literal["forward", "both"] = Field("forward", description="both adds flows_backward.")
    occlusion: bool = Field(
        False, description="Add the forward-backward mask of the earlier frame of each pair."
    )
    max_side: int | None = Field(
        None,
        ge=64,
        le=8192,
        description="Compute at most at this longer side; small frames and strips are computed larger.",
    )
    quality: Quality | None = Field(
        None,
        description="How much is computed: fast, balanced or best; the server's own if left out. /v1/info "
        "names those there are.",
    )
    dtype: FlowType = Field(
        "float32", description="Of the flows: float16 halves the reply, rounds to 1/2048 of them; needs npz."
    )
    format: str | None = Field(
        None,
        description="Format of the reply; goes before Accept.",
        json_schema_extra={"enum": [offer.name for offer in formats.ANALYZE]},
    )


def _ok_response() -> dict[str, Any]:
    return {
        "description": "npz: flows float32 [N-1,H,W,2] px, embeddings float32 [N,D] of unit length, "
        "meta (JSON text), and if asked for flows_backward float32 [N-1,H,W,2] and occlusion bool [N-1,H,W].",
        "content": {
            "application/x-npz": {"schema": FILE},
            "application/json": {"schema": {"$ref": "#/components/schemas/AnalyzeSummary"}},
        },
        "headers": header_docs(CLIP_HEADERS),
    }


@router.post(
    "/v1/analyze",
    summary="Flow and embeddings of N frames",
    response_class=Response,
    responses={200: _ok_response(), **documented(NotAcceptable, *INFERENCE_ERRORS)},
    openapi_extra=inference_docs(
        multipart_schema({"frames": {"type": "array", "items": FILE}}, required=["frames"])
    ),
)
async def post_analyze(
    request: Request,
    query: Annotated[AnalyzeQuery, Query()],
    accept: Annotated[str | None, Header()] = None,
) -> Response:
    """Send two or more images of one size as multipart parts that are all named `frames`, in order."""
    service, pipeline = begin(request)
    offer = choose_format(query.format, accept, formats.ANALYZE)
    if query.dtype == "float16" and not offer.supports_float16:
        raise InvalidInput(f"dtype=float16 needs format npz, not {offer.name}", param="dtype")
    quality = pipeline.quality(query.quality)
    body_type(request, MULTIPART)
    arrive(request, service)
    files = pick_frames(
        await read_form(request, service.settings, service.bodies), service.settings.max_frames
    )
    options = FlowOptions(query.direction == "both", query.occlusion, embed=True, quality=quality)

    async with inference_request(request, service) as inference:
        clip, geometry = await decode_frames(
            files, inference, pipeline, query.max_side, options, offer, query.dtype
        )
        meta = build_meta(clip.shape[1], geometry, service.contract, query.direction, options)
        result = await pipeline.flow(clip, geometry, options, inference.slot)
        del clip  # not kept while the reply is made and sent
        with inference.timings.stage("encode"):
            body = await run_sync(offer.encode_clip, result, EncodeOptions(query.dtype), meta)
        del result
        inference.shrink_reply(body)
    return flow_reply(body, offer, "analysis", meta, inference.timings)


def pick_frames(form: Form, limit: int) -> list[tuple[str, bytes]]:
    """The parts named frames. Raises InvalidInput unless there are 2 to ``limit`` of them."""
    form.check_names(files=["frames"])
    files = form.named("frames")
    if not 2 <= len(files) <= limit:
        raise InvalidInput(
            f"{len(files)} parts are named 'frames'; send 2 to {limit} (max_frames)", param="frames"
        )
    return [(f"frames[{index}]", data) for index, data in enumerate(files)]
