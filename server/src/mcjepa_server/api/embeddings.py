"""POST /v1/embeddings: OpenAI's shape with images in place of texts, or a multipart form."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import numpy as np
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response

from mcjepa_server.api.parameters import (
    FILE,
    INFERENCE_ERRORS,
    arrive,
    begin,
    header_docs,
    inference_docs,
    multipart_schema,
)
from mcjepa_server.api.request_body import JSON, MULTIPART, body_type, read_bytes, read_form
from mcjepa_server.api.responses import HEADERS
from mcjepa_server.api.schemas import EmbeddingRequest, EmbeddingResponse
from mcjepa_server.config import Settings
from mcjepa_server.decoding.embed_inputs import PART, Named, embed_batches
from mcjepa_server.engines.contract import EMBED
from mcjepa_server.errors import InvalidInput, MalformedRequest, UnknownModel
from mcjepa_server.http.problems import documented, validation_message
from mcjepa_server.imaging.limits import PixelBudget
from mcjepa_server.scheduling.lifecycle import Service
from mcjepa_server.scheduling.pipeline import normalise
from mcjepa_server.scheduling.request import inference_request
from mcjepa_server.types import FloatArray

router = APIRouter(tags=["inference"])
FIELDS = ("model", "encoding_format", "dimensions")

_FEW = 64  # images, whose reply takes a millisecond to encode
#: Bytes of JSON that are parsed whatever they hold: in 10 ms, into some dozen times the memory.
_SMALL_BODY = 2**19
_VALUES_AN_IMAGE, _OTHER_VALUES = 4, 4096
_SCANNED = 2**16  # bytes between two looks at the limit
_LONGEST_NAME = 64  # characters of a member's name that an error repeats

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
    arrive(request, service)
    wanted, files = await (_read_json if kind == JSON else _read_multipart)(request, service)
    images = _named(wanted, files)
    number = len(images)
    check_request(wanted, number, service.contract.embedding_size, service.settings)

    async with inference_request(request, service) as inference:
        # one part at a time is in the queue, so that others have their turn in between
        inference.reserve(pipeline.embed_work(min(number, PART)))
        settings, side = service.settings, service.contract.embed_image_size
        budget = PixelBudget(settings.max_image_pixels, settings.max_request_pixels)
        parts = []
        async with aclosing(embed_batches(images, PART, budget, side, service.decoders)) as batches:
            for first in range(0, number, PART):
                with inference.timings.stage("decode"):
                    batch = await anext(batches)
                if first + PART >= number:  # all are decoded
                    for kept in (images, files):
                        kept.clear()
                    wanted.input = ""
                    inference.release_body()
                parts.append(await pipeline.embed(batch, inference.slot))
        if wanted.encoding_format == "base64" and number <= _FEW:
            body = encode_embeddings(parts, wanted)  # sooner done than another thread is woken
        else:
            body = await run_sync(encode_embeddings, parts, wanted)
    headers = {"X-Model-Version": service.contract.model_version, **inference.timings.headers()}
    return Response(body, headers=headers, media_type=JSON)


async def _read_json(request: Request, service: Service) -> tuple[EmbeddingRequest, list[bytes]]:
    data = await read_bytes(request, service.settings, service.bodies)
    parse = partial(parse_request, data, service.settings.max_images)
    return await run_sync(parse, limiter=service.parsers), []


def parse_request(data: bytes, max_images: int) -> EmbeddingRequest:
    """Parse and check a JSON body. Raises MalformedRequest or InvalidInput.

    What parsing and checking cost is bounded by the number of images, and not by the bytes alone: each value
    of two bytes would take fifty of memory.
    """
    if len(data) > _SMALL_BODY:
        _check_values(data, max_images)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest("the body is not valid JSON") from error
    if isinstance(document, dict):
        _check_members(document)
        items = document.get("input")
        if isinstance(items, list):
            _check_count(len(items), max_images)
    return _validate(document)


def _check_members(document: dict[str, Any]) -> None:
    """Name the first unknown member, where validation would build an error for each of thousands."""
    for name in document:
        if name not in EmbeddingRequest.model_fields:
            short = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
            short = short.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair is no text
            raise InvalidInput(
                f"{short!r} is no member of this request; it may have "
                f"{', '.join(EmbeddingRequest.model_fields)}",
                param=short,
            )


def _check_values(data: bytes, max_images: int) -> None:
    """Raise before a large body is parsed that has more JSON values than so many images could need.

    An image is one string, or an object with one; a data URI has a comma of its own.
    """
    limit = _VALUES_AN_IMAGE * max_images + _OTHER_VALUES
    nested = separated = 0
    for start in range(0, len(data), _SCANNED):
        part = data[start : start + _SCANNED]
        nested += part.count(b"[") + part.count(b"{")
        separated += part.count(b",") + part.count(b":")
        if nested > limit:
            raise MalformedRequest(f"the body has over {limit} JSON lists and objects")
        if separated > limit:
            raise InvalidInput(
                f"the body has over {limit} JSON values; the limit is {max_images} images (max_images)",
                param="input",
            )


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
    _check_count(images, settings.max_images)
    if wanted.dimensions is not None and wanted.dimensions > embedding_size:
        raise InvalidInput(
            f"dimensions is {wanted.dimensions}; embeddings have {embedding_size}", param="dimensions"
        )


def _check_count(images: int, limit: int) -> None:
    if images > limit:
        raise InvalidInput(
            f"{images} images; the limit is {limit} (max_images); send them in several requests",
            param="input",
        )


def _named(wanted: EmbeddingRequest, files: list[bytes]) -> list[Named]:
    """The images under the names that errors call them by."""
    if files:
        return [(f"images[{index}]", data) for index, data in enumerate(files)]
    return [(f"input[{index}]", text) for index, text in enumerate(wanted.items)]


def encode_embeddings(parts: Sequence[FloatArray], wanted: EmbeddingRequest) -> bytes:
    """Return the JSON reply for embeddings in parts, each (N, D).

    The parts are encoded one by one: the encoder would hold the interpreter for all of them.
    """
    texts, count = [], 0
    for part in parts:
        items = _items(part, count, wanted)
        texts.append(json.dumps(items, separators=(",", ":"))[1:-1])
        count += len(items)
    usage = json.dumps({"prompt_tokens": count, "total_tokens": count})
    return f'{{"object":"list","data":[{",".join(texts)}],"model":"{EMBED}","usage":{usage}}}'.encode()


def _items(embeddings: FloatArray, start: int, wanted: EmbeddingRequest) -> list[dict[str, Any]]:
    if wanted.dimensions is not None:
        embeddings = normalise(embeddings[:, : wanted.dimensions])
    as_base64 = wanted.encoding_format == "base64"
    values = [_base64(row) for row in embeddings] if as_base64 else embeddings.tolist()
    return [
        {"object": "embedding", "index": index, "embedding": value}
        for index, value in enumerate(values, start)
    ]


def _base64(row: FloatArray) -> str:
    return base64.b64encode(np.ascontiguousarray(row, "<f4").tobytes()).decode("ascii")
