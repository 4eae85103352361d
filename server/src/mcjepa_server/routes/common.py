"""What several routes share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import Depends, Request

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
    UndecodableImage,
    UnsupportedMediaType,
)
from mcjepa_server.service import Service

#: What any inference path can answer with.
INFERENCE_ERRORS: tuple[type[ApiError], ...] = (
    MalformedRequest,
    UndecodableImage,
    BodyTimeout,
    BodyTooLarge,
    ImageTooLarge,
    UnsupportedMediaType,
    InvalidInput,
    Overloaded,
    EngineError,
    NotReady,
    DeadlineExceeded,
)


def get_service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]


def multipart_schema(properties: dict[str, Any], required: Iterable[str]) -> dict[str, Any]:
    """OpenAPI request body of a multipart form that the route reads by itself."""
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return {"multipart/form-data": {"schema": schema}}


def header_docs(headers: dict[str, str]) -> dict[str, Any]:
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()}


FILE = {"type": "string", "format": "binary"}
