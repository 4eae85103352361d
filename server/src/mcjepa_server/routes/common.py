"""What several routes share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import Depends, Header, Request

from mcjepa_server.accepted import PixelBudget
from mcjepa_server.clips import decode_clip
from mcjepa_server.engine import Uint8Array
from mcjepa_server.errors import (
    ApiError,
    BodyTimeout,
    BodyTooLarge,
    DeadlineExceeded,
    EngineError,
    ImageTooLarge,
    InvalidInput,
    MalformedRequest,
    NotReady,
    Overloaded,
    RateLimited,
    Unauthorized,
    UndecodableImage,
    UnsupportedMediaType,
)
from mcjepa_server.geometry import Geometry
from mcjepa_server.jobs import Ticket
from mcjepa_server.pipeline import FlowOptions, Pipeline
from mcjepa_server.service import Service

#: What any inference path can answer with.
INFERENCE_ERRORS: tuple[type[ApiError], ...] = (
    MalformedRequest,
    UndecodableImage,
    Unauthorized,
    BodyTimeout,
    BodyTooLarge,
    ImageTooLarge,
    UnsupportedMediaType,
    InvalidInput,
    Overloaded,
    RateLimited,
    EngineError,
    NotReady,
    DeadlineExceeded,
)


async def get_service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]


async def note_timeout(
    request: Request,
    timeout: Annotated[
        float | None,
        Header(
            alias="X-Request-Timeout",
            gt=0,
            allow_inf_nan=False,
            description="Seconds from the request to the reply, else 504; the server's limit still holds.",
        ),
    ] = None,
) -> None:
    """Notes when the caller stops waiting."""
    if timeout is not None:
        request.state.timeout = timeout
        request.state.expires = request.state.started + timeout


#: What every inference route depends on.
INFERENCE: list[Any] = [Depends(note_timeout)]


async def frames_in_turn(
    files: list[tuple[str, bytes]],
    ticket: Ticket,
    pipeline: Pipeline,
    max_side: int | None,
    options: FlowOptions,
) -> tuple[Uint8Array, Geometry]:
    """Named files to a clip (1, N, padded H, padded W, 3), in the turn of their request, which is charged.

    The list is emptied: of a request that is decoded, only the pixels are kept.
    """
    service = ticket.service
    budget = PixelBudget(service.settings.max_image_pixels, service.settings.max_request_pixels)
    await ticket.turn_to_decode()
    with ticket.timings.stage("decode"):
        clip, geometry = await decode_clip(files, budget, pipeline.planner(max_side), service.decoders)
    files.clear()
    ticket.charge(pipeline.flow_work(clip.shape[1], geometry, options))
    service.metrics.observe_padding(geometry, service.settings.shape_buckets)
    return clip, geometry


def multipart_schema(properties: dict[str, Any], required: Iterable[str]) -> dict[str, Any]:
    """OpenAPI request body of a multipart form that the route reads by itself."""
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }
    return {"multipart/form-data": {"schema": schema}}


def header_docs(headers: dict[str, str]) -> dict[str, Any]:
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()}


FILE = {"type": "string", "format": "binary"}
