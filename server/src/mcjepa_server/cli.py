"""The command ``mcjepa-server``."""

from __future__ import annotations

import argparse
import logging
import math
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn, get_args

import uvicorn
from fastapi import FastAPI

from mcjepa_server import logs, tracing
from mcjepa_server.app import create_app
from mcjepa_server.config import EngineName, Settings
from mcjepa_server.engines.select import find_model_repository
from mcjepa_server.errors import ContractError
from mcjepa_server.keys import KeyFileError, add_key
from mcjepa_server.memory import GATEWAY_BYTES, keep_freed_memory
from mcjepa_server.protocol import bounded_protocol
from mcjepa_server.service import Service
from mcjepa_server.startup import ConfigError, load_settings, unknown_variables
from mcjepa_server.version import __version__

logger = logging.getLogger(__name__)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Server(uvicorn.Server):
    """Uvicorn that ends in steps: readiness off; after ``drain_delay_s`` no new connections; what is inside
    finishes, within ``drain_timeout_s``. An interrupt from the keyboard, or a second signal, skips the delay.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._exit_at: float | None = None  # s, monotonic

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        first = self._exit_at is None
        self._service.drain()
        self._exit_at = time.monotonic() + self._service.settings.drain_delay_s
        if first and sig == signal.SIGTERM:
            self._captured_signals.append(sig)
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        if self._exit_at is not None and time.monotonic() >= self._exit_at:
            self.should_exit = True
        return await super().on_tick(counter)


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until it is told to stop. Exit codes: 0 stopped, 1 could not start, 2 wrong options."""
    parser = _parser()
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    new_key = given.pop("add_api_key", None)
    try:
        settings = load_settings(given)
        if new_key is not None:
            return _add_key(settings, new_key)
        if not settings.uses_triton:
            find_model_repository(settings)
        app = create_app(settings)
        if settings.tracing:
            _start_tracing()
    except (ConfigError, ContractError, KeyFileError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    return serve(settings, app)


def _add_key(settings: Settings, name: str) -> int:
    if settings.api_keys_file is None:
        raise ConfigError("--add-api-key needs --api-keys-file or MCJEPA_API_KEYS_FILE")
    key = add_key(settings.api_keys_file, name)
    sys.stderr.write(f"added {name} to {settings.api_keys_file}; the key is shown this once:\n")
    sys.stdout.write(key + "\n")
    return 0


def _start_tracing() -> None:
    try:
        tracing.start()
    except ImportError as error:
        raise ConfigError(f"MCJEPA_TRACING needs {error.name}: pip install 'mcjepa-server[otel]'") from None


def make_server(settings: Settings, app: FastAPI) -> Server:
    """A server that has not been started."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=bounded_protocol(settings),
        ws="none",
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s),
        server_header=False,
        access_log=False,  # ours has the request id
        log_config=None,  # as configured for the whole process
    )
    return Server(config, app.state.service)


def serve(settings: Settings, app: FastAPI) -> int:
    """Serves the application until a signal. 0 if it was served, 1 if it could not be."""
    keep_freed_memory(GATEWAY_BYTES)
    logs.configure(settings.log_format)
    for complaint in unknown_variables():
        logger.warning(complaint)
    if settings.api_keys_file is None and settings.host not in _LOOPBACK:
        logger.warning("everybody who reaches %s may ask: set MCJEPA_API_KEYS_FILE", settings.host)
    server = make_server(settings, app)
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again after an orderly end
        signal.signal(number, _stop)
    try:
        server.run()
    finally:
        tracing.use(None)  # sends what it holds
    return 0 if server.started else 1


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mcjepa-server",
        description="Serve optical flow and image embeddings over HTTP.",
        epilog="Each setting is also an environment variable: MCJEPA_ and its name in capitals, "
        "for example MCJEPA_MAX_BODY_BYTES; /v1/info shows the limits in force.",
    )
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default 8000)")
    parser.add_argument(
        "--root-path", metavar="PREFIX", help="path under which a proxy serves this server, as in /mcjepa"
    )
    parser.add_argument("--engine", choices=get_args(EngineName), help="what runs the models (default auto)")
    parser.add_argument(
        "--triton-url",
        action="append",
        dest="triton_urls",
        metavar="HOST:PORT",
        help="gRPC port of a Triton; repeat it for several (default 127.0.0.1:8001)",
    )
    parser.add_argument(
        "--model-repository",
        type=Path,
        metavar="DIR",
        help="folder of the exported models (default model_repository here or in the clone)",
    )
    parser.add_argument(
        "--production",
        action="store_true",
        default=None,
        help="refuse to start without API keys; log as JSON",
    )
    parser.add_argument(
        "--api-keys-file", type=Path, metavar="FILE", help="names and hashes of the API keys that may ask"
    )
    parser.add_argument(
        "--add-api-key", metavar="NAME", help="make a key, put its hash into the file, print it, and end"
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser
