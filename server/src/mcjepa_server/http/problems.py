"""Errors as ``application/problem+json`` (RFC 9457), with the ``error`` member that OpenAI clients read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Scope

from mcjepa_server.errors import (
    ApiError,
    Forbidden,
    InternalError,
    InvalidInput,
    MethodNotAllowed,
    NotFound,
    Unauthorized,
)

MEDIA_TYPE = "application/problem+json"


class ProblemResponse(JSONResponse):
    media_type = MEDIA_TYPE


def problem_response(error: ApiError, scope: Scope) -> ProblemResponse:
    """The reply to a request that failed."""
    scope.setdefault("state", {})["error_code"] = error.code
    return ProblemResponse(problem_body(error, scope), error.status, error.headers)


def problem_body(error: ApiError, scope: Scope) -> dict[str, Any]:
    return {
        "type": f"urn:mcjepa:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.message,
        "instance": scope["path"],
        "request_id": scope.get("state", {}).get("request_id"),
        "error": {
            "message": error.message,
            "type": _openai_type(error.status),
            "code": error.code,
            "param": error.param,
        },
    }


def add_handlers(app: FastAPI) -> None:
    """Every error leaves as a problem, those that FastAPI and Starlette raise by themselves too."""
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)


def validation_message(errors: Sequence[Any], skip: int = 0) -> tuple[str, str | None]:
    """One sentence and the first field out of pydantic's list; ``skip`` leading parts are no field names."""
    parts = []
    for error in errors[:5]:
        name = ".".join(str(part) for part in error["loc"][skip:])
        text = error["msg"].removeprefix("Value error, ")
        parts.append(f"{name}: {text}" if name else text)
    first = errors[0]["loc"][skip:] if errors else ()
    return "; ".join(parts), str(first[0]) if first else None


async def _on_api_error(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, ApiError)
    return problem_response(error, request.scope)


async def _on_validation_error(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, RequestValidationError)
    message, param = validation_message(error.errors(), skip=1)  # "query", "path"
    return problem_response(InvalidInput(message, param=param), request.scope)


async def _on_http_exception(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, HTTPException)
    return problem_response(_translate(error, request), request.scope)


def _translate(error: HTTPException, request: Request) -> ApiError:
    if error.status_code == 404:
        return NotFound(f"there is no {request.url.path} here; see /docs")
    if error.status_code == 405:
        return MethodNotAllowed(
            f"{request.method} is not allowed on {request.url.path}", headers=error.headers
        )
    return InternalError("the server failed")


def _openai_type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def documented(*errors: type[ApiError]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for the errors a path can answer with; the model is added by the app."""
    entries: dict[int | str, dict[str, Any]] = {}
    needs_key = (Forbidden,) if Unauthorized in errors else ()
    for error in (*errors, *needs_key):
        text = f"{error.title} (`{error.code}`)"
        if error.status in entries:
            entries[error.status]["description"] += f" or {text}"
            continue
        entries[error.status] = {
            "description": text,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return entries
