"""The FastAPI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi

from mcjepa_server.access import Access
from mcjepa_server.config import Settings
from mcjepa_server.engine import Engine
from mcjepa_server.engines.select import make_engine
from mcjepa_server.keys import KeyRing
from mcjepa_server.middleware import RequestContext
from mcjepa_server.problems import add_handlers
from mcjepa_server.replies import FLOW_HEADERS
from mcjepa_server.root_path import RootPath
from mcjepa_server.routes import analyze, docs, embeddings, flow, health, models, page
from mcjepa_server.schemas import AnalyzeSummary, EmbeddingRequest, FlowSummary, Problem
from mcjepa_server.security import SecurityHeaders
from mcjepa_server.service import Service
from mcjepa_server.version import __version__

DESCRIPTION = """
Dense optical flow between frames, and image embeddings, out of one encoder.

Every error is `application/problem+json` with an `error` member; limits are published at `/v1/info`.
`X-Request-ID` is echoed or made up, `traceparent` is echoed.
"""


def create_app(settings: Settings | None = None, engine: Engine | None = None) -> FastAPI:
    """The gateway on the given engine, or on the one that the settings name, loaded when the app starts.

    Raises KeyFileError if there is to be a file of API keys and it cannot be used.
    """
    settings = settings or Settings()

    async def supply() -> Engine:
        return engine if engine is not None else await make_engine(settings, service.metrics)

    service = Service(settings, supply)
    app = FastAPI(
        title="MC-JEPA",
        version=__version__,
        description=DESCRIPTION,
        lifespan=_lifespan,
        docs_url=None,  # routes.docs has it, with a policy of its own
        redoc_url=None,
    )
    app.state.service = service
    for module in (flow, embeddings, analyze, models, health, docs, page):
        app.include_router(module.router)
    add_handlers(app)
    _add_layers(app, service)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _add_layers(app: FastAPI, service: Service) -> None:
    """From the innermost to the outermost."""
    settings = service.settings
    if settings.api_keys_file is not None:
        keys = KeyRing(settings.api_keys_file)
        app.add_middleware(Access, keys=keys, per_minute=settings.rate_limit_per_minute)
    if settings.cors_origins:  # outside Access: a browser asks for permission without a key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            expose_headers=list(FLOW_HEADERS),
        )
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestContext, service=service)
    app.add_middleware(RootPath, prefix=settings.root_path)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    await service.start()
    try:
        yield
    finally:
        await service.stop()


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's schema, with the models that routes only refer to, and without its own shape of the 422."""
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
