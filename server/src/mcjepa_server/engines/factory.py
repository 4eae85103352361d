"""From settings to an engine."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from anyio.to_thread import run_sync
from platformdirs import user_cache_path

from mcjepa_server.config import Settings
from mcjepa_server.engines.base import Engine
from mcjepa_server.engines.contract import check_version
from mcjepa_server.errors import ContractError
from mcjepa_server.observability.metrics import Metrics

logger = logging.getLogger(__name__)


async def make_engine(settings: Settings, metrics: Metrics) -> Engine:
    """Loads the engine that the settings name. Raises ContractError or NotReady if it cannot serve."""
    if settings.uses_triton:
        engine = await _triton(settings, metrics)
    else:
        engine = await _embedded(settings, find_model_repository(settings))
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


async def _embedded(settings: Settings, repository: Path) -> Engine:
    """An engine of this process."""
    load = _openvino if settings.engine == "openvino" else _onnxruntime
    return await run_sync(load, settings, repository)


def _openvino(settings: Settings, repository: Path) -> Engine:
    from mcjepa_server.engines.openvino import OpenVinoEngine

    cache = private_folder(settings.engine_cache or user_cache_path("mcjepa") / "openvino")
    threads, workers = settings.intra_op_threads, settings.max_concurrency
    try:
        return OpenVinoEngine.load(repository, threads, workers, cache)
    except (ImportError, OSError) as error:
        raise ContractError(
            f"openvino cannot be imported ({error}): pip install './server[openvino]' in a clone of mcjepa"
        ) from error


def _onnxruntime(settings: Settings, repository: Path) -> Engine:
    from mcjepa_server.engines.onnxruntime import OnnxRuntimeEngine  # slow to import, and not always needed

    threads, workers = settings.intra_op_threads, settings.max_concurrency
    return OnnxRuntimeEngine.load(repository, threads, workers)


def private_folder(path: Path) -> Path | None:
    """The folder, made if need be; None if there can be none or if others may write to it.

    What is read from it is executed, so it must not be anybody else's.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        logger.warning("compiled models are not kept: %s", error)
        return None
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        logger.warning("compiled models are not kept: others may write to %s", path)
        return None
    return path


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
        try:
            if folder.is_dir():
                os.listdir(folder)
                return folder.resolve()
        except OSError as error:
            raise ContractError(
                f"the model repository {folder} cannot be read: {error.strerror}; mend its permissions, "
                "or set --model-repository or MCJEPA_MODEL_REPOSITORY"
            ) from None
    searched = " nor ".join(str(folder) for folder in candidates)
    raise ContractError(
        f"there is no model repository at {searched}: set --model-repository or MCJEPA_MODEL_REPOSITORY"
    )
