"""A process that runs functions on hostile bytes, one call after the other, for the event loop."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import TypeVar

from anyio.to_thread import run_sync

from mcjepa_server.confined import HEAD, confine
from mcjepa_server.handover import SharedFile, hand_over

T = TypeVar("T")

START_S = 20.0
_READ_AHEAD = 2**18  # bytes of a reply
_SERVE = "import sys; from mcjepa_server.confined import serve; serve(int(sys.argv[1]))"


class BrokenWorker(Exception):
    """The process ended, on this call or before it."""


class NoWorker(BrokenWorker):
    """The process cannot be started."""


class Worker:
    """The process, and the socket to it: calls and results are pickled, each behind its length (``HEAD``)."""

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process, self._reader, self._writer = process, reader, writer
        self._file = SharedFile()
        self._is_busy = False

    @classmethod
    async def start(cls) -> Worker:
        """One that has taken its first call. Raises NoWorker."""
        try:
            ours, process = _start()
            worker = cls(process, *await asyncio.open_connection(sock=ours, limit=_READ_AHEAD))
        except OSError as error:
            raise NoWorker(str(error)) from error
        try:
            async with asyncio.timeout(START_S):
                await worker.call(confine)
        except Exception as error:
            await worker.end()
            raise NoWorker(f"it was not ready within {START_S:g} s, or ended: {error!r}") from error
        return worker

    @property
    def is_ready(self) -> bool:
        """Whether it can take a call: it has answered the last one, and has not ended, as far as is known."""
        return not self._is_busy and not self._reader.at_eof()

    async def call(self, function: Callable[..., T], *args: object) -> T:
        """The function's result, or its error. Raises BrokenWorker if the process ends.

        To be ended by whoever is not ready to wait for the result any longer.
        """
        path = self._file.path
        call = pickle.dumps((function, hand_over(args, path), path), pickle.HIGHEST_PROTOCOL)
        self._is_busy = True
        try:
            self._writer.write(HEAD.pack(len(call)) + call)
            (size,) = HEAD.unpack(await self._reader.readexactly(HEAD.size))
            reply = await self._reader.readexactly(size)
        except (EOFError, OSError) as error:
            raise BrokenWorker from error
        result: T
        result, failure = pickle.loads(reply)
        self._file.clear()
        self._is_busy = False
        if failure is not None:
            raise failure
        return result

    async def end(self) -> None:
        """At once, whatever it works on."""
        self._process.kill()
        self._writer.close()
        await run_sync(self._process.wait)


def _start() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Our end of the socket, and the process."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )  # fmt: skip
        except OSError:
            ours.close()
            raise
    return ours, process
