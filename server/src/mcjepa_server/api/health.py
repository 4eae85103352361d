"""Liveness, readiness and metrics."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from mcjepa_server.api.parameters import ServiceDep
from mcjepa_server.api.schemas import Health
from mcjepa_server.errors import NotReady
from mcjepa_server.http.problems import documented

router = APIRouter(tags=["operation"])


@router.get("/healthz", summary="The process need not be restarted", responses=documented(NotReady))
@router.head("/healthz", include_in_schema=False)
async def healthz(service: ServiceDep) -> Health:
    """Answer 200 unless an engine of this process failed three canary inferences in a row, by an error or by
    never returning; then 503 with the reason, until one succeeds. A Triton that is away does not count."""
    if service.dead is not None:
        raise service.not_ready(service.dead)
    return Health(status="ok")


@router.get("/readyz", summary="Inference works", responses=documented(NotReady))
@router.head("/readyz", include_in_schema=False)
async def readyz(service: ServiceDep) -> Health:
    """Answer 200 only after a tiny image was decoded and a canary inference gave a finite answer of the
    right shape, and none failed since; else 503 with the reason. An idle server repeats this, so that an
    engine that hangs is found."""
    if service.reason is not None:
        raise service.not_ready(service.reason)
    return Health(status="ready")


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
@router.head("/metrics", include_in_schema=False)
async def metrics(service: ServiceDep) -> Response:
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)
