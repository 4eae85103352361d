"""The FastAPI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from mcjepa_server import __version__
from mcjepa_server.api import analyze, embeddings, flow, health, models, pages
from mcjepa_server.api.responses import FLOW_HEADERS
from mcjepa_server.config import Settings
from mcjepa_server.engines.base import Engine
from mcjepa_server.engines.factory import make_engine
from mcjepa_server.http.auth import Access
from mcjepa_server.http.keys import KeyRing
from mcjepa_server.http.middleware import RequestContext, RootPath, SecurityHeaders
from mcjepa_server.http.problems import add_handlers
from mcjepa_server.openapi import openapi_schema
from mcjepa_server.scheduling.lifecycle import Service

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
        docs_url=None,  # api.pages has it, with a policy of its own
        redoc_url=None,
    )
    app.state.service = service
    for module in (flow, embeddings, analyze, models, health, pages, pages):
        app.include_router(module.router)
    add_handlers(app)
    _add_layers(app, service)
    app.openapi = lambda: openapi_schema(app)  # type: ignore[method-assign]
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
