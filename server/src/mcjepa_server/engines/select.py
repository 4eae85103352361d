"""From settings to an engine."""

from __future__ import annotations

from pathlib import Path

from anyio.to_thread import run_sync

from mcjepa_server.config import Settings
from mcjepa_server.contract import check_version
from mcjepa_server.engine import Engine
from mcjepa_server.errors import ContractError
from mcjepa_server.metrics import Metrics


async def make_engine(settings: Settings, metrics: Metrics) -> Engine:
    """Loads the engine that the settings name. Raises ContractError or NotReady if it cannot serve."""
    engine = await (_triton(settings, metrics) if settings.uses_triton else _onnxruntime(settings))
    try:
        check_version(engine.contract, settings.model_version)
    except ContractError:
        await engine.close()
        raise
    return engine


async def _triton(settings: Settings, metrics: Metrics) -> Engine:
    from mcjepa_server.engines.triton import DEFAULT_URL, TritonEngine  # imports gRPC

    urls = settings.triton_urls or (DEFAULT_URL,)
    return await TritonEngine.connect(urls, settings.readiness_interval_s, metrics)


async def _onnxruntime(settings: Settings) -> Engine:
    from mcjepa_server.engines.onnxruntime import OnnxRuntimeEngine  # slow to import, and not always needed

    repository = find_model_repository(settings)
    return await run_sync(
        OnnxRuntimeEngine.load, repository, settings.intra_op_threads, settings.max_concurrency
    )


def find_model_repository(settings: Settings) -> Path:
    """The setting; else ./model_repository; else the one beside the source tree this was installed from.

    Raises ContractError naming the places that were searched.
    """
    if settings.model_repository is not None:
        candidates = [settings.model_repository]
    else:
        candidates = [Path("model_repository")]
        distribution = Path(__file__).resolve().parents[3]  # server/ in a clone
        if (distribution / "pyproject.toml").is_file():
            candidates.append(distribution.parent / "model_repository")
    for folder in candidates:
        if folder.is_dir():
            return folder.resolve()
    searched = " nor ".join(str(folder) for folder in candidates)
    raise ContractError(
        f"there is no model repository at {searched}: set --model-repository or MCJEPA_MODEL_REPOSITORY"
    )
