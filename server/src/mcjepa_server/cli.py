"""The command ``mcjepa-server``."""

from __future__ import annotations

import argparse
import gc
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import uvicorn
from fastapi import FastAPI
from pydantic_settings import CliSettingsSource

from mcjepa_server import __version__, cli_keys
from mcjepa_server.app import create_app
from mcjepa_server.config import ConfigError, Settings, add_options, load_settings, unknown_variables
from mcjepa_server.decoding.sandbox import hide_memory
from mcjepa_server.engines.factory import find_model_repository
from mcjepa_server.errors import ContractError
from mcjepa_server.http.keys import KeyFileError
from mcjepa_server.http.listening import AddressError, bind, check_listening, is_loopback
from mcjepa_server.http.protocol import bounded_protocol
from mcjepa_server.observability import logs, tracing
from mcjepa_server.observability.malloc import GATEWAY_BYTES, keep_freed_memory
from mcjepa_server.scheduling.lifecycle import Service

logger = logging.getLogger(__name__)

STOPPED, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
_LAST_THREADS_S = 5.0  # for threads to end after everything else has

_EPILOG = """\
exit codes:
  0    stopped by a signal, after what was inside had finished; or a command on keys is done
  1    could not serve: the address is taken, not allowed or unknown, or there is no room for threads or files
  2    a wrong option, variable, file of keys or model repository; nothing was started
  130  ended at once by a second Ctrl-C, or by one before it had started

Each option is also an environment variable: MCJEPA_ and its name in capitals, for example
MCJEPA_MAX_BODY_BYTES. Lists are separated by commas. /v1/info shows the limits in force.
"""


class Server(uvicorn.Server):
    """Uvicorn that ends in steps: readiness off; after ``drain_delay_s`` no new connections; what is inside
    finishes, within ``drain_timeout_s``. An interrupt from the keyboard, or a second signal, skips the delay;
    a second interrupt ends the process at once.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._exit_at: float | None = None  # s, monotonic
        self.is_listening = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        first = self._exit_at is None
        if self.should_exit and sig == signal.SIGINT:
            logger.warning("ended at once by a second interrupt; requests inside were cut off")
            logging.shutdown()
            os._exit(INTERRUPTED)
        self._service.drain()
        self._exit_at = time.monotonic() + self._service.settings.drain_delay_s
        self._captured_signals.append(sig)  # which uvicorn raises again at the end
        if sig == signal.SIGINT or not first:
            self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen after the application has started; another may have taken the address meanwhile."""
        try:
            await super().startup(sockets)
            check_listening(sockets or [])
        except OSError:
            where = (self.config.host, self.config.port)
            logger.error("cannot listen at %s:%s: it was taken while the models were loaded", *where)
            self.should_exit = True
            if not self.started:
                await self.lifespan.shutdown()
            return
        self.is_listening = self.started
        if self.started and sockets:  # uvicorn says so for those alone that it has bound itself
            host, port = sockets[0].getsockname()[:2]
            address = f"[{host}]" if ":" in host else host
            logger.info("Uvicorn running on http://%s:%d (Press CTRL+C to quit)", address, port)

    async def on_tick(self, counter: int) -> bool:
        if self._exit_at is not None and time.monotonic() >= self._exit_at:
            self.should_exit = True
        return await super().on_tick(counter)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop, or run a command on the API keys; the exit code, as ``--help`` lists them.

    Raises SystemExit for a wrong option or setting, after one line on standard error.
    """
    parser, options = _parser()
    arguments = parser.parse_args(argv)
    options(parsed_args=arguments)
    try:
        settings = load_settings(options)
        if arguments.command == "keys" or arguments.add_api_key is not None:
            return _change_keys(settings, arguments)
        _check_exposure(settings)
        if not settings.uses_triton:
            find_model_repository(settings)
        app = create_app(settings)
        if settings.tracing:
            _start_tracing()
        sockets = bind(settings.host, settings.port)
    except AddressError as error:
        parser.exit(FAILED, f"{parser.prog}: error: {error}\n")
    except (ConfigError, ContractError, KeyFileError) as error:
        parser.exit(WRONG, f"{parser.prog}: error: {error}\n")
    return serve(settings, app, sockets)


def _change_keys(settings: Settings, arguments: argparse.Namespace) -> int:
    if settings.api_keys_file is None:
        raise ConfigError("name the file of API keys: --api-keys-file or MCJEPA_API_KEYS_FILE")
    if arguments.command == "keys":
        return cli_keys.run(arguments, settings.api_keys_file)
    return cli_keys.add(settings.api_keys_file, arguments.add_api_key)


def _check_exposure(settings: Settings) -> None:
    """Raises ConfigError where others would be served without being asked for a key."""
    if settings.api_keys_file is None and not settings.allow_anonymous and not is_loopback(settings.host):
        raise ConfigError(
            f"no API keys configured: anyone who can reach {settings.host}:{settings.port} could use this "
            "server; give --api-keys-file FILE (MCJEPA_API_KEYS_FILE), which `mcjepa-server keys add` makes, "
            "or --allow-anonymous (MCJEPA_ALLOW_ANONYMOUS=1), or listen at 127.0.0.1"
        )


def _start_tracing() -> None:
    try:
        tracing.start()
    except ImportError as error:
        command = "pip install './server[otel]' in a clone of mcjepa"
        raise ConfigError(f"MCJEPA_TRACING needs {error.name}: {command}") from None


def make_server(settings: Settings, app: FastAPI) -> Server:
    """A server that has not been started."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=bounded_protocol(settings),
        ws="none",
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s),
        server_header=False,
        access_log=False,  # ours has the request id
        log_config=None,  # as configured for the whole process
    )
    return Server(config, app.state.service)


def serve(settings: Settings, app: FastAPI, sockets: list[socket.socket] | None = None) -> int:
    """Serve the application until a signal, at bound sockets or else at the settings' address.

    Returns 0 if it was served, 1 if it could not be.
    """
    keep_freed_memory(GATEWAY_BYTES)
    hide_memory()  # from a decoder that was taken over
    gc.freeze()  # what is loaded stays, so that collections look at requests alone and take no time
    logs.configure(settings.log_format)
    for complaint in unknown_variables():
        logger.warning(complaint)
    if settings.api_keys_file is None and not is_loopback(settings.host):
        logger.warning("anyone who can reach %s:%d can use this server", settings.host, settings.port)
    server = make_server(settings, app)
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again after an orderly end
        signal.signal(number, _stop)
    try:
        server.run(sockets)
        code = STOPPED if server.is_listening else FAILED
    except SystemExit as ended:  # of _stop, or of uvicorn where the application could not start
        code = STOPPED if ended.code == STOPPED else FAILED
    finally:
        tracing.stop()
    _end_of_threads(code)
    return code


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(STOPPED)


def _end_of_threads(code: int) -> None:
    """Python would wait for a thread whose inference never returns: the process ends without it."""
    deadline = time.monotonic() + _LAST_THREADS_S
    others = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    for thread in others:
        if not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
    if any(thread.is_alive() and not thread.daemon for thread in others):
        logger.warning("ended without an inference that never returned")
        logging.shutdown()
        os._exit(code)


def _parser() -> tuple[argparse.ArgumentParser, CliSettingsSource[argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(
        prog="mcjepa-server",
        description="Serve optical flow and image embeddings over HTTP.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--add-api-key", metavar="NAME", help="the same as `keys add NAME`")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    cli_keys.add_commands(parser.add_subparsers(dest="command", metavar="COMMAND"))
    return parser, add_options(parser)
