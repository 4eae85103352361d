"""The language between the shared logic and its two drivers.

An *operation* is a generator that holds all logic of a call and does no I/O. It yields steps and is sent what
each step gave: the drivers in `_client` perform a step, blocking or awaiting, and know nothing else.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx2

from mcjepa_client._errors import ConnectionFailedError

T = TypeVar("T")


@dataclass(frozen=True)
class Send:
    """Send one HTTP request. Gives a `Reply`, or the ConnectionFailedError that came instead."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    files: list[tuple[str, tuple[str, bytes]]] | None = None
    json: object = None
    timeout: float | None = None  # seconds; None takes the client's
    server: str | None = None  # None takes the client's only or first one
    images: Mapping[str, "SentImage"] = field(
        default_factory=dict
    )  # by the name that the server has for each


@dataclass(frozen=True)
class SentImage:
    """What the caller calls an image of a request: the argument, its place among several, and its file."""

    name: str
    index: int | None = None
    path: str | None = None

    def __str__(self) -> str:
        return self.name if self.path is None else f"{self.name} ({self.path})"


@dataclass(frozen=True)
class Wait:
    """Let `seconds` pass. Gives None."""

    seconds: float


@dataclass(frozen=True)
class Work:
    """Run a blocking function (reading files, decoding), off the event loop. Gives its result."""

    job: Callable[[], Any]


@dataclass(frozen=True)
class Reply:
    """A complete HTTP reply."""

    status_code: int
    headers: httpx2.Headers
    content: bytes

    @property
    def request_id(self) -> str | None:
        return self.headers.get("x-request-id")

    @property
    def content_type(self) -> str:
        """Media type without parameters, lower case; "" when the reply names none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


Step = Send | Wait | Work
Operation = Generator[Step, Any, T]


def send(request: Send) -> Operation[Reply | ConnectionFailedError]:
    outcome: Reply | ConnectionFailedError = yield request
    return outcome


def wait(seconds: float) -> Operation[None]:
    yield Wait(seconds)


def work(job: Callable[[], T]) -> Operation[T]:
    result: T = yield Work(job)
    return result
