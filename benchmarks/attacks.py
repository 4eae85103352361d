"""Callers that mean harm over raw sockets, for besieged.py, fuzz.py, soak.py, overload.py and drain.py.

Every loop is bounded in bytes and in time. Each attack says what is wrong with how the server took it, or
None: a server answers as it should, or hangs up.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import httpx2
import numpy as np
from hostile import BOUNDARY, encoded, file, multipart
from serving import percentile

PATIENCE_S = 30.0
MOST_BYTES = 2**25  # that a flood sends before it counts as taken
MULTIPART = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
PART = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="frame1"; filename="f"\r\n\r\n'.encode()


class Target(NamedTuple):
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Target:
        parts = urlsplit(url)
        return cls(parts.hostname or "", parts.port or 0)

    def connect(self) -> socket.socket:
        return socket.create_connection(self, PATIENCE_S)


Attack = Callable[[Target, random.Random], str | None]  # gives what is wrong with the outcome, or None


def post(path: str, body: bytes, headers: str = MULTIPART) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def chunked(start: bytes) -> bytes:
    """A request whose body has begun well, in chunks; ``start`` comes after the first one."""
    head = f"POST /v1/flow HTTP/1.1\r\nHost: x\r\n{MULTIPART}Transfer-Encoding: chunked\r\n\r\n"
    return head.encode() + b"%x\r\n%b\r\n" % (len(PART), PART) + start


def status_of(connection: socket.socket) -> int:
    """Return the status of the reply; 0 if the connection was closed without one."""
    try:
        head = connection.recv(2**16)
    except ConnectionError:
        return 0
    return int(head[9:12]) if head[9:12].isdigit() else 0


def flood(target: Target, start: bytes, piece: bytes) -> str | None:
    """The piece over and over; the server must not take it all."""
    piece *= max(1, 2**16 // len(piece))
    with target.connect() as connection:
        try:
            connection.sendall(start)
            for _ in range(MOST_BYTES // len(piece)):
                connection.sendall(piece)
        except ConnectionError:
            return None
    return f"took {MOST_BYTES} bytes of {piece[:20]!r}"


def ask(target: Target, request: bytes, *expected: int) -> str | None:
    """A request that must be answered with one of these, or cut off."""
    with target.connect() as connection:
        try:
            connection.sendall(request)
        except ConnectionError:
            return None
        status = status_of(connection)
    return None if status in (0, 429, *expected) else f"answered {status}, not {expected}"


def trailers(target: Target, rng: random.Random) -> str | None:
    line = rng.choice((b"X: y\r\n", b"X-%d: " % rng.randrange(9) + b"y" * 500 + b"\r\n", b"y"))
    return flood(target, chunked(b"0\r\n"), line)


def chunk_headers(target: Target, rng: random.Random) -> str | None:
    start, piece = rng.choice(
        ((b"1;", b"e"), (b"", b"1\r\na\r\n"), (b"", b"1;" + b"e" * 999 + b"\r\na\r\n"), (b"", b"0"))
    )
    return flood(target, chunked(start), piece)


def headers(target: Target, rng: random.Random) -> str | None:
    start = b"GET /healthz HTTP/1.1\r\n"
    return flood(target, rng.choice((start, b"GET /", b"")), rng.choice((b"X: y\r\n", b"y")))


def pipelined(target: Target, rng: random.Random) -> str | None:
    return ask(target, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 20_000, 200)


def upgrade(target: Target, rng: random.Random) -> str | None:
    head = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    return ask(target, head + rng.randbytes(100), 200, 400)


def deep_json(target: Target, rng: random.Random) -> str | None:
    opening = rng.choice((b"[", b'{"input":', b'{"input":['))
    return ask(
        target, post("/v1/embeddings", opening * 10**6, "Content-Type: application/json\r\n"), 400, 422
    )


def long_json(target: Target, rng: random.Random) -> str | None:
    item = rng.choice(("0", '""', '"x"', "{}", "[]", '{"image":""}'))
    body = f'{{"input":[{",".join([item] * 200_000)}]}}'.encode()
    return ask(target, post("/v1/embeddings", body, "Content-Type: application/json\r\n"), 400, 413, 422)


def tiny_parts(target: Target, rng: random.Random) -> str | None:
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="frames"; filename="f"\r\n\r\n\r\n'.encode()
    return ask(target, post("/v1/analyze", part * 50_000 + f"--{BOUNDARY}--\r\n".encode()), 400)


def almost_boundaries(target: Target, rng: random.Random) -> str | None:
    fill = rng.choice((b"\r", b"\r\n", b"\r\n--", f"\r\n--{BOUNDARY[:-1]}".encode()))
    body = PART + fill * (2**22 // len(fill)) + f"\r\n--{BOUNDARY}--\r\n".encode()
    return ask(target, post("/v1/flow", body), 422)


def hang_ups(target: Target, rng: random.Random) -> str | None:
    """Twenty callers who leave at once: while they send, wait to be decoded, are at work, or read."""
    name = rng.choice(("upload", "queue", "reply"))
    held = []
    for _ in range(20):
        connection = target.connect()
        request = unread_request() if name == "reply" else decoded_slowly()
        connection.sendall(request[: -rng.randrange(1, 1000)] if name == "upload" else request)
        held.append(connection)
    if name == "reply":
        for connection in held:
            connection.recv(100)
    for connection in held:
        reset(connection)
    start = time.monotonic()
    wrong = ask(target, post("/v1/embeddings", multipart([("images", file("PNG"))])), 200)
    took = time.monotonic() - start
    return wrong or (None if took < 5 else f"a small call waited {took:.1f} s behind callers who had left")


#: Each takes a second or so, and leaves nothing open.
ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        trailers, chunk_headers, headers, pipelined, upgrade, deep_json, long_json, tiny_parts,
        almost_boundaries, hang_ups,
    )
}  # fmt: skip


def reset(connection: socket.socket) -> None:
    """Close without the courtesy of TCP."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


_cache: dict[str, bytes] = {}


def unread_request() -> bytes:
    """10 kB for a reply of 15 MB, which hardly needs to be computed."""
    if "unread" not in _cache:
        frame = encoded(np.zeros((1200, 1600, 3), np.uint8))
        _cache["unread"] = post("/v1/flow?max_side=64", multipart([("frame1", frame), ("frame2", frame)]))
    return _cache["unread"]


def decoded_slowly() -> bytes:
    """Some 30 ms of a decoder for each of two files, and hardly any of the engine."""
    if "slow" not in _cache:
        frame = encoded(np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8))
        _cache["slow"] = post("/v1/flow?max_side=64", multipart([("frame1", frame), ("frame2", frame)]))
    return _cache["slow"]


class Siege:
    """Connections that are held for as long as the server lets them, and opened again when it does not.

    ``unread`` never read their reply, ``slow`` send a byte of their body a second, ``idle`` send nothing,
    some of them after a first request.
    """

    def __init__(self, target: Target, unread: int = 0, slow: int = 0, idle: int = 0) -> None:
        self.target = target
        self.wanted = {"unread": unread, "slow": slow, "idle": idle}
        self.held: dict[str, list[socket.socket]] = {kind: [] for kind in self.wanted}
        self.opened = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._hold, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for connection in (connection for group in self.held.values() for connection in group):
            connection.close()

    def _hold(self) -> None:
        while not self._stop.wait(1):
            for kind, wanted in self.wanted.items():
                self.held[kind] = [one for one in self.held[kind] if self._is_open(one, kind)]
                for _ in range(wanted - len(self.held[kind])):
                    with contextlib.suppress(OSError):
                        self.held[kind].append(self._open(kind))

    def _open(self, kind: str) -> socket.socket:
        self.opened += 1
        connection = socket.socket()
        connection.settimeout(PATIENCE_S)
        if kind == "unread":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(self.target)
        if kind == "unread":
            connection.sendall(unread_request())
        elif kind == "slow":
            connection.sendall(post("/v1/flow", PART + bytes(10**6))[:-1000])
        elif self.opened % 2:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            connection.recv(4096)
        return connection

    def _is_open(self, connection: socket.socket, kind: str) -> bool:
        """Return whether the server holds it, too. What is not read can be read after it was dropped."""
        try:
            if kind == "slow":
                connection.sendall(b"x")
            peeked = connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            connection.close()
            return False
        if kind == "unread" and peeked and tcp_state(connection) == 1:
            return True
        connection.close()
        return False


def tcp_state(connection: socket.socket) -> int:
    """1 is ESTABLISHED: the other side has not closed."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


class Health:
    """Asks /healthz fifty times a second on a connection of its own; seconds of each answer."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seconds: list[float] = []

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        with httpx2.Client(base_url=self.url, timeout=PATIENCE_S) as client:
            while not self._stop.wait(0.02):
                start = time.perf_counter()
                try:
                    good = client.get("/healthz").status_code == 200
                except httpx2.HTTPError:
                    good = False
                self.seconds.append(time.perf_counter() - start if good else float("inf"))

    def figures(self) -> dict[str, float]:
        names = {"p50": 0.5, "p99": 0.99, "worst": 1.0}
        return {name: round(1000 * percentile(self.seconds, share), 1) for name, share in names.items()}
