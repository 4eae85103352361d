"""The OpenAPI document, served at /openapi.json."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from mcjepa_server.api.schemas import AnalyzeSummary, EmbeddingRequest, FlowSummary, Problem


def openapi_schema(app: FastAPI) -> dict[str, Any]:
    """Return FastAPI's schema, with the models that routes refer to and without its own 422."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        components = schema.setdefault("components", {}).setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            components.pop(name, None)
        for model in (Problem, FlowSummary, AnalyzeSummary, EmbeddingRequest):
            document = model.model_json_schema(ref_template="#/components/schemas/{model}")
            components.update(document.pop("$defs", {}))
            components[model.__name__] = document
        for path in schema["paths"].values():
            for operation in path.values():
                _drop_undocumented_validation(operation["responses"])
        app.openapi_schema = schema
    return app.openapi_schema


def _drop_undocumented_validation(responses: dict[str, Any]) -> None:
    """FastAPI adds a 422 of its own wherever a path has a parameter; ours are all problems."""
    if "application/json" in responses.get("422", {}).get("content", {}):
        del responses["422"]
