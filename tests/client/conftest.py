"""A scripted server for the client tests: it answers from a list and remembers what it was asked."""

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import numpy as np
import pytest
from mcjepa_client import Client


class ScriptedServer:
    """An httpx2 handler that gives its answers in order, the last one for ever."""

    def __init__(self, *answers: httpx2.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return httpx2.Response(answer.status_code, headers=answer.headers, content=answer.content)


def _problem(status: int, code: str = "some_code", **headers: str) -> httpx2.Response:
    error = {"message": "what went wrong", "type": "some_type", "code": code, "param": "frame2"}
    body = {"status": status, "detail": "what went wrong", "request_id": "id-in-body", "error": error}
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.Response(
        status,
        content=json.dumps(body).encode(),
        headers={"content-type": "application/problem+json", **names},
    )


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _embeddings(*rows: list[float]) -> httpx2.Response:
    data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
    usage = {"prompt_tokens": len(rows), "total_tokens": len(rows)}
    return httpx2.Response(
        200, json={"object": "list", "data": data, "model": "mcjepa_embed", "usage": usage}
    )


@pytest.fixture
def scripted() -> type[ScriptedServer]:
    return ScriptedServer


@pytest.fixture
def problem() -> Callable[..., httpx2.Response]:
    """An error reply as the server makes it."""
    return _problem


@pytest.fixture
def npz() -> Callable[..., bytes]:
    """The arrays as an archive."""
    return _npz


@pytest.fixture
def embeddings() -> Callable[..., httpx2.Response]:
    """A reply of /v1/embeddings with these rows."""
    return _embeddings


@pytest.fixture
def limits() -> Callable[..., httpx2.Response]:
    """A reply of /v1/info that names the limits of /v1/embeddings."""
    return lambda images=64, size=2**26: httpx2.Response(
        200, json={"limits": {"max_images": images, "max_body_bytes": size}}
    )


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were slept, without sleeping. The jitter is switched off."""
    taken: list[float] = []
    monkeypatch.setattr("time.sleep", taken.append)
    monkeypatch.setattr("random.random", lambda: 0.0)
    return taken


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    """Makes a client of a handler."""
    opened: list[httpx2.Client] = []

    def make(handler: Callable[[httpx2.Request], httpx2.Response], **options: Any) -> Client:
        http = httpx2.Client(transport=httpx2.MockTransport(handler))
        opened.append(http)
        return Client("http://server.test", http_client=http, **options)

    yield make
    for http in opened:
        http.close()
