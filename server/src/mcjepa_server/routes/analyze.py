"""POST /v1/analyze: N frames in, the flow between neighbours and the embedding of each out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from mcjepa_server import formats
from mcjepa_server.body import MULTIPART, body_type, read_form
from mcjepa_server.engine import Quality
from mcjepa_server.errors import InvalidInput, NotAcceptable
from mcjepa_server.flowcodec import FlowType
from mcjepa_server.forms import Form
from mcjepa_server.jobs import Ticket, run_job
from mcjepa_server.negotiate import choose_format
from mcjepa_server.pipeline import FlowOptions
from mcjepa_server.problems import documented
from mcjepa_server.replies import CLIP_HEADERS, describe, encode_analysis, flow_reply
from mcjepa_server.routes.common import (
    FILE,
    INFERENCE_ERRORS,
    arrive,
    begin,
    frames_in_turn,
    header_docs,
    inference_docs,
    multipart_schema,
)

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
            formats.NPZ.media_type: {"schema": FILE},
            formats.JSON.media_type: {"schema": {"$ref": "#/components/schemas/AnalyzeSummary"}},
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
    if query.dtype == "float16" and offer not in formats.HALF:
        raise InvalidInput(f"dtype=float16 needs format npz, not {offer.name}", param="dtype")
    quality = pipeline.quality(query.quality)
    body_type(request, MULTIPART)
    arrive(request, service)
    files = pick_frames(
        await read_form(request, service.settings, service.bodies), service.settings.max_frames
    )
    options = FlowOptions(query.direction == "both", query.occlusion, embed=True, quality=quality)

    async def job(ticket: Ticket) -> Response:
        clip, geometry = await frames_in_turn(
            files, ticket, pipeline, query.max_side, options, offer, query.dtype
        )
        meta = describe(clip.shape[1], geometry, service.contract, query.direction, options)
        result = await pipeline.flow(clip, geometry, options, ticket.slot)
        del clip  # not kept while the reply is made and sent
        with ticket.timings.stage("encode"):
            body = await run_sync(encode_analysis, result, offer, query.dtype, meta)
        del result
        ticket.shrink_reply(body)
        return flow_reply(body, offer, "analysis", meta, ticket.timings)

    return await run_job(request, service, job)


def pick_frames(form: Form, limit: int) -> list[tuple[str, bytes]]:
    """The parts named frames. Raises InvalidInput unless there are 2 to ``limit`` of them."""
    form.check_names(files=["frames"])
    files = form.named("frames")
    if not 2 <= len(files) <= limit:
        raise InvalidInput(
            f"{len(files)} parts are named 'frames'; send 2 to {limit} (max_frames)", param="frames"
        )
    return [(f"frames[{index}]", data) for index, data in enumerate(files)]
