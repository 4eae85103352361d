"""An `mcjepa-server` process of one's own, for as long as its owner lives."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx2

from mcjepa_client import _guard
from mcjepa_client._client import Client
from mcjepa_client._errors import ConnectionFailedError, McjepaError

SERVER_COMMAND = (sys.executable, "-m", "mcjepa_server")
START_TIMEOUT = 300.0  # seconds until it must be ready, loading the models included
_ATTEMPTS = 3  # another process may be first to take the port that was free
_STOP_TIMEOUT = 15.0  # longer than the guard gives the server
_LOG_LINES = 5


class OwnServer:
    """A server on a free port of this machine; `url` is where.

    It ends with `close`, and with the process that made it, even when that is killed.

    Args:
        command: what starts it; host and port are added.
        settings: environment variables for it, on top of those of this process.
        start_timeout: seconds until it must be ready.

    Raises:
        ConnectionFailedError: it ended at once, or is not ready in time; with the end of its log.
    """

    def __init__(
        self,
        command: Sequence[str] = SERVER_COMMAND,
        settings: Mapping[str, str] | None = None,
        start_timeout: float = START_TIMEOUT,
    ) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open until close()
        self._http = httpx2.Client(trust_env=False)  # a proxy named in the environment stays out of it
        for attempts_left in reversed(range(_ATTEMPTS)):
            port = _free_port()
            self.url = f"http://127.0.0.1:{port}"
            self._process = self._start(
                [*command, "--host", "127.0.0.1", "--port", str(port)], settings or {}
            )
            problem = self._wait(time.monotonic() + start_timeout)
            if problem is None:
                return
            ended = self._process.poll() is not None
            self._stop()
            if attempts_left == 0 or not ended:
                words = self._last_words()
                self.close()
                raise ConnectionFailedError(f"{' '.join(command)}: {problem}{words}")

    def client(self) -> Client:
        """A client of it, of use until `close`."""
        return Client(self.url, http_client=self._http)

    def close(self) -> None:
        """End the server, after the requests it is at."""
        self._stop()
        self._http.close()
        self._log.close()

    def _start(self, command: Sequence[str], settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, str(Path(_guard.__file__)), *command],
            stdin=subprocess.PIPE,  # its closing is what ends the server
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, **settings},
        )

    def _wait(self, deadline: float) -> str | None:
        """What is wrong, or None as soon as it is ready."""
        client = self.client()
        while True:
            try:
                client.wait_until_ready(1.0)
                problem = None
            except McjepaError as error:
                problem = str(error)
            code = self._process.poll()
            if code is not None:
                return f"it ended with exit code {code}"
            if problem is None or time.monotonic() > deadline:
                return problem

    def _stop(self) -> None:
        assert self._process.stdin is not None, "it was started with a pipe"
        self._process.stdin.close()
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()[-_LOG_LINES:]
        return "".join(f"\n  {line}" for line in lines)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
