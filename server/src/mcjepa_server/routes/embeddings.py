"""POST /v1/embeddings: OpenAI's shape with images in place of texts, or a multipart form."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from mcjepa_server.body import JSON, MULTIPART, body_type, read_bytes, read_form
from mcjepa_server.config import Settings
from mcjepa_server.contract import EMBED
from mcjepa_server.engine import FloatArray
from mcjepa_server.errors import InvalidInput, MalformedRequest, UnknownModel
from mcjepa_server.jobs import Ticket, run_job
from mcjepa_server.pipeline import normalise
from mcjepa_server.problems import documented, validation_message
from mcjepa_server.replies import HEADERS
from mcjepa_server.routes.common import (
    FILE,
    INFERENCE_ERRORS,
    begin,
    header_docs,
    inference_docs,
    multipart_schema,
)
from mcjepa_server.schemas import EmbeddingRequest, EmbeddingResponse
from mcjepa_server.service import Service
from mcjepa_server.squares import Named, squares

router = APIRouter(tags=["inference"])
FIELDS = ("model", "encoding_format", "dimensions")

_CONTENT = {
    JSON: {"schema": {"$ref": "#/components/schemas/EmbeddingRequest"}},
    **multipart_schema(
        {
            "images": {"type": "array", "items": FILE},
            "model": {"type": "string"},
            "encoding_format": {"type": "string", "enum": ["float", "base64"]},
            "dimensions": {"type": "integer"},
        },
        required=["images"],
    ),
}


@router.post(
    "/v1/embeddings",
    summary="Embeddings of images",
    response_model=EmbeddingResponse,
    responses={
        200: {"headers": header_docs(HEADERS)},
        **documented(UnknownModel, *INFERENCE_ERRORS),
    },
    openapi_extra=inference_docs(_CONTENT),
)
async def post_embeddings(request: Request) -> Response:
    """Embeddings of unit length. JSON as for OpenAI's endpoint, or multipart with parts named `images`."""
    service, pipeline = begin(request)
    kind = body_type(request, JSON, MULTIPART)
    service.admission.check(request.state.api_key)
    wanted, files = await (_read_json if kind == JSON else _read_multipart)(request, service)
    images = _named(wanted, files)
    check_request(wanted, len(images), service.contract.embedding_size, service.settings)

    async def job(ticket: Ticket) -> Response:
        ticket.charge(pipeline.embed_work(len(images)))
        limit, side = service.settings.max_image_pixels, service.contract.embed_image_size
        with ticket.timings.stage("decode"):
            decoded = await squares(images, limit, side, service.decoders)
        for kept in (images, files):
            kept.clear()
        wanted.input = ""
        ticket.release_body()
        embeddings = await pipeline.embed(decoded, ticket.slot)
        headers = {"X-Model-Version": service.contract.model_version, **ticket.timings.headers()}
        if wanted.encoding_format == "base64":  # sooner done than another thread is woken
            return JSONResponse(encode_embeddings(embeddings, wanted), headers=headers)
        return await run_sync(lambda: JSONResponse(encode_embeddings(embeddings, wanted), headers=headers))

    return await run_job(request, service, job)


async def _read_json(request: Request, service: Service) -> tuple[EmbeddingRequest, list[bytes]]:
    data = await read_bytes(request, service.settings, service.bodies)
    try:
        document = await run_sync(json.loads, data)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest("the body is not valid JSON") from error
    return _validate(document), []


async def _read_multipart(request: Request, service: Service) -> tuple[EmbeddingRequest, list[bytes]]:
    form = await read_form(request, service.settings, service.bodies)
    form.check_names(files=["images"], fields=FIELDS)
    files = form.named("images")
    if not files:
        raise InvalidInput(
            "part 'images' is missing; send one or more image files under that name", param="images"
        )
    return _validate({"input": "", **form.fields}), files


def _validate(document: Any) -> EmbeddingRequest:
    try:
        return EmbeddingRequest.model_validate(document)
    except ValidationError as error:
        message, param = validation_message(error.errors(include_url=False))
        raise InvalidInput(message, param=param) from None


def check_request(wanted: EmbeddingRequest, images: int, embedding_size: int, settings: Settings) -> None:
    """Raises UnknownModel or InvalidInput for a request that is valid in shape only."""
    if wanted.model is not None and wanted.model != EMBED:
        raise UnknownModel(f"model {wanted.model!r} gives no embeddings here; {EMBED!r} does", param="model")
    if images > settings.max_images:
        raise InvalidInput(f"{images} images; the limit is {settings.max_images} (max_images)", param="input")
    if wanted.dimensions is not None and wanted.dimensions > embedding_size:
        raise InvalidInput(
            f"dimensions is {wanted.dimensions}; embeddings have {embedding_size}", param="dimensions"
        )


def _named(wanted: EmbeddingRequest, files: list[bytes]) -> list[Named]:
    """The images under the names that errors call them by."""
    if files:
        return [(f"images[{index}]", data) for index, data in enumerate(files)]
    return [(f"input[{index}]", text) for index, text in enumerate(wanted.items)]


def encode_embeddings(embeddings: FloatArray, wanted: EmbeddingRequest) -> dict[str, Any]:
    """The reply for embeddings (N, D)."""
    if wanted.dimensions is not None:
        embeddings = normalise(embeddings[:, : wanted.dimensions])
    as_base64 = wanted.encoding_format == "base64"
    values = [_base64(row) for row in embeddings] if as_base64 else embeddings.tolist()
    data = [{"object": "embedding", "index": index, "embedding": value} for index, value in enumerate(values)]
    usage = {"prompt_tokens": len(data), "total_tokens": len(data)}
    return {"object": "list", "data": data, "model": EMBED, "usage": usage}


def _base64(row: FloatArray) -> str:
    return base64.b64encode(np.ascontiguousarray(row, "<f4").tobytes()).decode("ascii")
