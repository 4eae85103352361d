"""What several routes share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import Depends, Request

from mcjepa_server.api.flow_encoding import FlowType
from mcjepa_server.api.formats import ResponseFormat
from mcjepa_server.api.responses import reply_bytes
from mcjepa_server.decoding.clip import decode_clip
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
from mcjepa_server.imaging.geometry import Geometry
from mcjepa_server.imaging.limits import PixelBudget
from mcjepa_server.scheduling.lifecycle import Service
from mcjepa_server.scheduling.pipeline import FlowOptions, Pipeline
from mcjepa_server.scheduling.request import InferenceRequest
from mcjepa_server.types import Uint8Array

TIMEOUT = "X-Request-Timeout"  # of a request, s

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


def begin(request: Request) -> tuple[Service, Pipeline]:
    """What every inference begins with. Raises NotReady, or InvalidInput for X-Request-Timeout.

    As dependencies of FastAPI's these took 8 % of the event loop's time for a small request.
    """
    service: Service = request.app.state.service
    text = request.headers.get(TIMEOUT)
    if text is not None:
        seconds = _positive(text)
        request.state.timeout = seconds
        request.state.expires = request.state.started + seconds
    return service, service.require_ready()


def arrive(request: Request, service: Service) -> None:
    """Count the request with its API key until it is over. Raises Overloaded or RateLimited, before the body
    is read, to refuse cheaply."""
    request.state.held.enter_context(service.admission.arrive(request.state.api_key))


def _positive(text: str) -> float:
    """Seconds that a caller waits."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidInput(f"{TIMEOUT} is {text[:100]!r}; send seconds, above 0", param=TIMEOUT)
    return seconds


async def decode_frames(
    files: list[tuple[str, bytes]],
    inference: InferenceRequest,
    pipeline: Pipeline,
    max_side: int | None,
    options: FlowOptions,
    offer: ResponseFormat,
    dtype: FlowType,
) -> tuple[Uint8Array, Geometry]:
    """Decode named files to a clip (1, N, padded H, padded W, 3) in turn, and reserve their cost.

    The list is emptied: of a request that is decoded, only the pixels are kept, and its bytes count no more.
    """
    service = inference.service
    budget = PixelBudget(service.settings.max_image_pixels, service.settings.max_request_pixels)
    await inference.acquire_decode_slot()
    with inference.timings.stage("decode"):
        clip, geometry = await decode_clip(files, budget, pipeline.planner(max_side), service.decoders)
    files.clear()
    inference.release_body()
    frames = clip.shape[1]
    inference.reserve(
        pipeline.flow_work(frames, geometry, options), pipeline.flow_turn(frames, geometry, options)
    )
    await inference.reserve_reply(reply_bytes(frames, geometry, options, offer, dtype))
    service.metrics.observe_padding(
        (geometry.padded_width, geometry.padded_height),
        (geometry.scaled_width, geometry.scaled_height),
        service.settings.shape_buckets,
    )
    return clip, geometry


def inference_docs(content: dict[str, Any]) -> dict[str, Any]:
    """What FastAPI cannot see in a route that reads body and deadline by itself, for OpenAPI."""
    timeout = {
        "name": TIMEOUT,
        "in": "header",
        "required": False,
        "schema": {"type": "number", "exclusiveMinimum": 0},
        "description": "Seconds from the request to the reply, else 504; the server's limit still holds.",
    }
    return {"requestBody": {"required": True, "content": content}, "parameters": [timeout]}


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
