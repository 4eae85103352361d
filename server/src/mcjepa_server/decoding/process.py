"""A process that decodes images, one call after the other, for the event loop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from anyio.to_thread import run_sync

from mcjepa_server.decoding.messages import REPLY, BrokenWorker, Call, GarbledReply, KilledWorker

START_S = 20.0
_END_S = 1.0  # from the end of its socket to that of the process
_SOCKET_BYTES = 2**20  # of its buffers, or what the system allows: fewer turns for a frame
_TOGETHER_BYTES = 2**16  # sooner copied into one message than sent by themselves
#: The child is told where this process imports from; an environment and a folder of the user do not count.
_SERVE = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from mcjepa_server.decoding.worker import serve; serve(int(sys.argv[1]))"
)
#: What the loader may need to find Python's own library; nothing else of the environment is handed on.
_LOADER = ("LD_LIBRARY_PATH",)


class NoWorker(BrokenWorker):
    """The process cannot be started."""


class Worker:
    """The process, and the socket to it. A process that answers anything but its call is not ready again."""

    def __init__(self, process: subprocess.Popen[bytes], ours: socket.socket, memory_bytes: int) -> None:
        self._process = process
        self._socket = ours
        self._memory_bytes = memory_bytes
        self._number = 0
        self._is_busy = False

    @classmethod
    async def start(cls, memory_bytes: int) -> Worker:
        """One that is ready, bounded to so many bytes of address space. Raises NoWorker."""
        try:
            worker = cls(*_start(memory_bytes), memory_bytes)
        except OSError as error:
            raise NoWorker(str(error)) from error
        try:
            async with asyncio.timeout(START_S):
                await worker._receive(bytearray(REPLY.size))
        except BaseException as error:
            await worker.end()
            if not isinstance(error, Exception):  # its caller was cancelled
                raise
            code = worker._process.returncode
            raise NoWorker(f"it was not ready within {START_S:g} s, or ended (exit code {code})") from error
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_ready(self) -> bool:
        """Whether it can take a call: it has answered the last one, said no more, and has not ended."""
        if self._is_busy:
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """The function's result, or its error. Raises BrokenWorker if the process ends, KilledWorker if
        another one ended it, or GarbledReply.

        To be ended by whoever is not ready to wait for the result any longer.
        """
        call = Call.of(function, *args)
        self._number += 1
        self._is_busy = True
        try:
            await self._send(call)
            head = bytearray(REPLY.size)
            await self._receive(head)
            reply = call.check(head, self._number)
            payload = bytearray(reply.size)
            await self._receive(payload)
        except GarbledReply:
            raise
        except (OSError, BrokenWorker) as error:
            kind = KilledWorker if await self._how_it_ended() == -signal.SIGKILL else BrokenWorker
            raise kind from error
        self._is_busy = False
        return call.finish(reply, payload, self._memory_bytes)

    async def end(self) -> None:
        """At once, whatever it works on."""
        self._process.kill()
        self._socket.close()
        try:
            await run_sync(self._process.wait)
        except RuntimeError:  # no thread is to be had for it, and what was killed is soon gone
            self._process.wait()

    async def _how_it_ended(self) -> int | None:
        """Its exit code, a negative signal; None if it has not ended by itself."""
        with suppress(subprocess.TimeoutExpired, RuntimeError):  # or no thread is to be had
            return await run_sync(self._process.wait, _END_S)
        return None

    async def _send(self, call: Call) -> None:
        loop = asyncio.get_running_loop()
        parts = [call.head(self._number), *call.files]
        if sum(map(len, parts)) <= _TOGETHER_BYTES:
            parts = [b"".join(parts)]
        for part in parts:
            await loop.sock_sendall(self._socket, part)

    async def _receive(self, buffer: bytearray) -> None:
        """Fills the buffer. Raises BrokenWorker if there is an end before it is full."""
        loop = asyncio.get_running_loop()
        left = memoryview(buffer)
        while left:
            try:
                received = await loop.sock_recv_into(self._socket, left)
            except OSError as error:
                raise BrokenWorker from error
            if not received:
                raise BrokenWorker
            left = left[received:]


def _start(memory_bytes: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The process, and our end of the socket, which is its standard input and its only way to anywhere."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
            ours.setblocking(False)
            process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-c", _SERVE, str(memory_bytes), *sys.path],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _LOADER if name in os.environ},
            )
    except BaseException:
        ours.close()
        raise
    return process, ours
