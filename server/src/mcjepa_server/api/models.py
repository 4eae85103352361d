"""What is served, and within which limits."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from mcjepa_server import __version__
from mcjepa_server.api import formats
from mcjepa_server.api.parameters import ServiceDep
from mcjepa_server.api.request_body import MAX_PART_HEADER_BYTES, MAX_PART_HEADERS
from mcjepa_server.api.schemas import Formats, Info, Limits, Model, ModelInfo, ModelList, QualityInfo
from mcjepa_server.engines.contract import CONTRACT_VERSION, EMBED, FLOW_BIDIRECTIONAL, Contract, flow_model
from mcjepa_server.errors import NotReady, Unauthorized, UnknownModel
from mcjepa_server.http.problems import documented
from mcjepa_server.imaging.limits import FORMATS, MIN_SIDE
from mcjepa_server.scheduling.lifecycle import Service

router = APIRouter(tags=["models"])


@router.get("/v1/models", summary="Models, in OpenAI's shape", responses=documented(Unauthorized, NotReady))
@router.head("/v1/models", include_in_schema=False)
async def list_models(service: ServiceDep) -> ModelList:
    contract = service.contract
    return ModelList(data=[_model(name, contract) for name in _endpoints(contract)])


@router.get(
    "/v1/models/{name}",
    summary="One model, in OpenAI's shape",
    responses=documented(Unauthorized, UnknownModel, NotReady),
)
@router.head("/v1/models/{name}", include_in_schema=False)
async def get_model(name: str, service: ServiceDep) -> Model:
    names = _endpoints(service.contract)
    if name not in names:
        raise UnknownModel(f"there is no model {name!r}; there are {', '.join(names)}", param="model")
    return _model(name, service.contract)


@router.get("/v1/info", summary="Engine, weights, limits and formats", responses=documented(Unauthorized))
@router.head("/v1/info", include_in_schema=False)
async def info(service: ServiceDep) -> Info:
    """Answers while the server is not ready, too, and then says why."""
    return Info(
        version=__version__,
        engine=service.engine_name,
        ready=service.reason is None,
        reason=service.reason,
        model=None if service.engine_name is None else _model_info(service),
        limits=_limits(service),
        formats=Formats(
            image_input=list(FORMATS),
            flow=[offer.name for offer in formats.FLOW],
            analyze=[offer.name for offer in formats.ANALYZE],
            embedding=["float", "base64"],
        ),
    )


def _model(name: str, contract: Contract) -> Model:
    return Model(id=name, version=contract.model_version, endpoints=_endpoints(contract)[name])


def _endpoints(contract: Contract) -> dict[str, list[str]]:
    """Return the paths that each of the models is used by."""
    flows = [*map(flow_model, contract.qualities), FLOW_BIDIRECTIONAL]
    return {**{name: ["/v1/flow", "/v1/analyze"] for name in flows}, EMBED: ["/v1/embeddings"]}


def _model_info(service: Service) -> ModelInfo:
    contract = service.contract
    return ModelInfo(
        version=contract.model_version,
        weights_sha256=contract.weights_sha256,
        contract_version=CONTRACT_VERSION,
        stride=contract.stride,
        smallest_side=contract.smallest_side,
        embedding_size=contract.embedding_size,
        embed_image_size=contract.embed_image_size,
        training_summary=contract.training_summary,
        license=contract.license,
        qualities=[
            QualityInfo(name=name, **figures._asdict()) for name, figures in contract.qualities.items()
        ],
        default_quality=service.settings.quality,
    )


def _limits(service: Service) -> Limits:
    settings = service.settings
    apart = bool(settings.decode_processes)
    others: dict[str, Any] = {
        "min_side": MIN_SIDE,
        "max_in_flight": service.admission.capacity,
        "max_part_headers": MAX_PART_HEADERS,
        "max_part_header_bytes": MAX_PART_HEADER_BYTES,
        "decode_timeout_s": settings.decode_timeout_s * apart,
        "decode_memory_bytes": service.decoders.memory_bytes,
    }
    names = Limits.model_fields.keys() - others.keys()
    return Limits(**{name: getattr(settings, name) for name in names}, **others)
