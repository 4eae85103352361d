"""An `mcjepa-server` process of one's own, for as long as its owner lives."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
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
_RESTART_DELAY = 1.0  # seconds; one that cannot start again must not keep the machine busy with it
_LOG_LINES = 5


class OwnServer:
    """A server on a free port of this machine; `url` is where.

    Once it was ready, it is started again at the same address whenever it dies. It ends with `close`, and
    with the process that made it, even when that is killed.

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
        self._environment = {**os.environ, **(settings or {})}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open until close()
        self._http = httpx2.Client(trust_env=False)  # a proxy named in the environment stays out of it
        self._closing = threading.Event()
        self._lock = threading.Lock()  # of starting again, against closing
        for attempts_left in reversed(range(_ATTEMPTS)):
            port = _free_port()
            self.url = f"http://127.0.0.1:{port}"
            self._command = [*command, "--host", "127.0.0.1", "--port", str(port)]
            self._process = self._start()
            problem = self._wait(time.monotonic() + start_timeout)
            if problem is None:
                threading.Thread(target=self._keep, name="mcjepa-own-server", daemon=True).start()
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
        with self._lock:
            self._closing.set()
        self._stop()
        self._http.close()
        self._log.close()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, str(Path(_guard.__file__)), *self._command],
            stdin=subprocess.PIPE,  # its closing is what ends the server
            stdout=self._log,
            stderr=self._log,
            env=self._environment,
        )

    def _keep(self) -> None:
        """Start it again whenever it dies, until `close`."""
        while True:
            self._process.wait()
            if self._closing.wait(_RESTART_DELAY):
                return
            with self._lock:
                if self._closing.is_set():
                    return
                self._stop()
                self._process = self._start()

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
