"""POST /v1/flow: two frames in, the flow between them out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from mcjepa_server.api import formats
from mcjepa_server.api.flow_encoding import FlowType
from mcjepa_server.api.formats import EncodeOptions, ResponseFormat, choose_format
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
from mcjepa_server.api.responses import FLOW_HEADERS, build_meta, flow_reply
from mcjepa_server.errors import InvalidInput, NotAcceptable
from mcjepa_server.http.problems import documented
from mcjepa_server.scheduling.pipeline import FlowOptions
from mcjepa_server.scheduling.request import inference_request
from mcjepa_server.types import Quality

router = APIRouter(tags=["inference"])
FRAMES = ("frame1", "frame2")


class FlowQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    direction: Literal["forward", "backward", "both"] = Field(
        "forward",
        description="forward: where frame 1 went in frame 2; backward: the reverse; both: as npz or json.",
    )
    occlusion: bool = Field(
        False,
        description="Add the mask of pixels that fail the forward-backward check (Sundaram et al. 2010); "
        "needs npz or json. With direction=both it is the mask of frame 1.",
    )
    max_side: int | None = Field(
        None,
        ge=64,
        le=8192,
        description="Compute at most at this longer side; the pixel budget of /v1/info holds besides. Small "
        "frames and strips are computed larger, as X-Compute-Size tells.",
    )
    max_flow: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="png: length in px drawn at full saturation; default the longest vector.",
    )
    quality: Quality | None = Field(
        None,
        description="How much is computed: fast, balanced or best; the server's own if left out. /v1/info "
        "names those there are.",
    )
    dtype: FlowType = Field(
        "float32", description="float16 halves the reply and rounds flow to 1/2048 of it; needs npy or npz."
    )
    format: str | None = Field(
        None,
        description="Format of the reply; goes before Accept. Without either it is flo.",
        json_schema_extra={"enum": [offer.name for offer in formats.FLOW]},
    )


def _ok_response() -> dict[str, Any]:
    content: dict[str, Any] = {}
    for offer in formats.FLOW:
        reference = {"$ref": f"#/components/schemas/{offer.schema}"}
        content[offer.media_type] = {"schema": FILE if offer.schema is None else reference}
    return {
        "description": "The flow at the size of the frames, (dx, dy) in px: the point (x, y) of the frame it "
        "starts from is at (x+dx, y+dy) in the other. npz holds flow, flow_backward and occlusion.",
        "content": content,
        "headers": header_docs(FLOW_HEADERS),
    }


@router.post(
    "/v1/flow",
    summary="Optical flow between two frames",
    response_class=Response,
    responses={200: _ok_response(), **documented(NotAcceptable, *INFERENCE_ERRORS)},
    openapi_extra=inference_docs(multipart_schema(dict.fromkeys(FRAMES, FILE), required=FRAMES)),
)
async def post_flow(
    request: Request,
    query: Annotated[FlowQuery, Query()],
    accept: Annotated[str | None, Header()] = None,
) -> Response:
    """Send two images of one size as the multipart parts `frame1` and `frame2`."""
    service, pipeline = begin(request)
    offer = choose_offer(query, accept)
    quality = pipeline.quality(query.quality)
    body_type(request, MULTIPART)
    arrive(request, service)
    files = pick_frames(await read_form(request, service.settings, service.bodies))
    options = FlowOptions(query.direction == "both", query.occlusion, quality=quality)

    async with inference_request(request, service) as inference:
        clip, geometry = await decode_frames(
            files, inference, pipeline, query.max_side, options, offer, query.dtype
        )
        if query.direction == "backward":
            clip = np.ascontiguousarray(clip[:, ::-1])
        meta = build_meta(clip.shape[1], geometry, service.contract, query.direction, options)
        result = await pipeline.flow(clip, geometry, options, inference.slot)
        del clip  # not kept while the reply is made and sent
        with inference.timings.stage("encode"):
            wanted = EncodeOptions(query.dtype, query.max_flow)
            body, extra = await run_sync(offer.encode_flow, result, wanted, meta)
        del result
        inference.shrink_reply(body)
    reply = flow_reply(body, offer, "flow", meta, inference.timings)
    reply.headers.update(extra)
    return reply


def choose_offer(query: FlowQuery, accept: str | None) -> ResponseFormat:
    """Return the format, flo if the caller leaves it open.

    Raises InvalidInput if it cannot hold what was asked for: any other would end up in a file that the caller
    has named after this one.
    """
    offer = choose_format(query.format, accept, formats.FLOW)
    if query.dtype == "float16" and not offer.supports_float16:
        raise InvalidInput(
            f"dtype=float16 needs format=npy or format=npz; {offer.name} holds float32", param="dtype"
        )
    if (query.direction == "both" or query.occlusion) and not offer.multi_field:
        raise InvalidInput(
            "direction=both and occlusion=true need format=npz or format=json; "
            f"{offer.name} holds one field only",
            param="format",
        )
    return offer


def pick_frames(form: Form) -> list[tuple[str, bytes]]:
    """The two parts. Raises InvalidInput naming the one that is missing or given twice."""
    form.check_names(files=FRAMES)
    files = []
    for name in FRAMES:
        found = form.named(name)
        if len(found) != 1:
            problem = "is missing" if not found else f"is given {len(found)} times"
            raise InvalidInput(
                f"part {name!r} {problem}; send one image file as each of frame1 and frame2", param=name
            )
        files.append((name, found[0]))
    return files
