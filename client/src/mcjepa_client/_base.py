"""The logic that both clients share, without I/O: configuration, retries, and the steps of each call.

Each call is a generator of steps (see `_steps`); the drivers in `_client` only perform them.
"""

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from typing import Any

import httpx2
import numpy as np

from mcjepa_client import _requests as requests
from mcjepa_client._errors import (
    ClientClosedError,
    ConnectionFailedError,
    InputError,
    McjepaError,
    PayloadTooLargeError,
    RequestTimeoutError,
    ServiceUnavailableError,
    StatusError,
    advise,
    name_images,
    status_error,
)
from mcjepa_client._images import ImageInput, size_of
from mcjepa_client._patience import Patience
from mcjepa_client._pools import PerProcess
from mcjepa_client._replies import (
    read_analysis,
    read_clip_limits,
    read_embeddings,
    read_flow,
    read_limits,
)
from mcjepa_client._results import AnalyzeResult, EmbedResult, FlowResult
from mcjepa_client._retry import RETRIED_STATUSES, delay_before_retry, parse_retry_after
from mcjepa_client._servers import Servers
from mcjepa_client._shrunk import are_pixels, enlarge_analysis, enlarge_pair, shrink_pixels
from mcjepa_client._steps import Operation, Reply, Send, send, wait, work
from mcjepa_client._version import __version__
from mcjepa_client._video.clips import ClipLimits
from mcjepa_client._video.frames import Image
from mcjepa_client._video.job import VideoOptions
from mcjepa_client._video.results import join_parts
from mcjepa_client._video.shrink import shrink
from mcjepa_client._wire import read_json

DEFAULT_SERVER = "http://127.0.0.1:8000"
SERVER_VARIABLE = "MCJEPA_SERVER"
API_KEY_VARIABLE = "MCJEPA_API_KEY"
# Longer than the 60 s a server allows a request by default, so that its own answer (504) comes first.
DEFAULT_TIMEOUT = 90.0
DEFAULT_MAX_RETRIES = 2

_CONNECT_TIMEOUT = 10.0  # seconds
_PROBE_TIMEOUT = 5.0
_PROBE_INTERVAL = 0.25

_LARGE_BODY = 2**25  # bytes, from which a server is asked whether it takes as many before they are sent
_ADVICE_FOR_FILES = (
    "files and bytes are sent as they are: shrink them, send fewer, or pass arrays or PIL images, "
    "which are sent as large as they are computed (max_side)"
)
_ADVICE_FOR_PIXELS = "send fewer frames, or lower max_side"

# What sending raises when something is wrong with the way to the server, besides what httpx2 documents: the
# resolver and the sockets refuse some names and ports in their own words.
SENDING_ERRORS = (
    httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError, UnicodeError, OverflowError,
    RuntimeError,
)  # fmt: skip
# Another attempt cannot change these.
_HOPELESS = (
    httpx2.InvalidURL, httpx2.LocalProtocolError, httpx2.UnsupportedProtocol, UnicodeError, OverflowError,
    RuntimeError,
)  # fmt: skip
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # a token (RFC 9110, 5.6.2)
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\t\x20-\x7e]*[\x21-\x7e])?|")


class BaseClient:
    """What `Client` and `AsyncClient` have in common. `base_urls` are the servers that are asked in turn."""

    def __init__(
        self,
        base_url: str | Sequence[str] | None,
        timeout: float,
        max_retries: int,
        api_key: str | None,
        headers: Mapping[str, str] | None,
    ) -> None:
        self.base_urls = _check_urls(base_url or os.environ.get(SERVER_VARIABLE) or DEFAULT_SERVER)
        self.timeout = _check_timeout(timeout)
        self.max_retries = _check_retries(max_retries)
        headers = _check_headers(headers or {})
        self._headers = {
            "User-Agent": f"mcjepa-client/{__version__}",
            **_authorization(api_key or os.environ.get(API_KEY_VARIABLE), headers),
            **headers,
        }
        self._limits: requests.EmbedLimits | None = None
        self._is_closed = False
        self._owns_http = True
        self._all_servers = self._make_servers()

    def _make_servers(self) -> PerProcess[Servers]:
        return PerProcess(partial(Servers, self.base_urls))

    @property
    def _servers(self) -> Servers:
        return self._all_servers.get()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the settings, the API key among them, and no connections: a copy makes its own.

        Raises InputError for a client with an `http_client`, which cannot be pickled.
        """
        if not self._owns_http:
            raise InputError(
                "http_client: a client that was given one cannot be pickled; leave http_client out"
            )
        state = self.__dict__.copy()
        for name in ("_all_servers", "_pool"):
            del state[name]
        return {**state, "_is_closed": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._all_servers = self._make_servers()

    @property
    def base_url(self) -> str:
        """The server that is asked; of several, the first."""
        return self.base_urls[0]

    def _arguments(self, step: Send) -> dict[str, Any]:
        """Keyword arguments of httpx2's `build_request` for a step."""
        timeout = step.timeout or self.timeout
        return {
            "method": step.method,
            "url": (step.server or self.base_url) + step.path,
            "params": dict(step.params),
            "headers": self._headers,
            "files": step.files,
            "json": step.json,
            "timeout": httpx2.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT)),
        }

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClientClosedError("the client is closed; make another one")

    def _connection_error(self, step: Send, error: Exception, is_closed: bool) -> ConnectionFailedError:
        """Return the error of a request that got no reply. Raises ClientClosedError if that is why."""
        if isinstance(error, RuntimeError):
            self._check_open()
            if is_closed:
                raise ClientClosedError(
                    "http_client is closed; give another one to another client"
                ) from error
        kind = RequestTimeoutError if isinstance(error, httpx2.TimeoutException) else ConnectionFailedError
        what = "broken reply" if isinstance(error, httpx2.DecodingError) else "no reply"
        reason = str(error) or type(error).__name__
        failure = kind(f"{what} from {step.server or self.base_url}: {reason}")
        failure.__cause__ = error
        return failure

    def _call(self, request: Send, patience: Patience | None = None) -> Operation[Reply]:
        """Send, and send again while that is worth it, to each server in turn. Raises the last error."""
        patience = patience or Patience(retries=self.max_retries)
        server, attempt = self._servers.pick(), 0
        while True:
            outcome = yield from self._ask(server, request)
            if isinstance(outcome, Reply) and outcome.status_code == 200:
                return outcome
            error = _as_error(outcome, request)
            if not _worth_retrying(error) or patience.is_over(attempt):
                raise error
            delay = delay_before_retry(attempt, getattr(error, "retry_after", None))
            server, pause = self._servers.pick_after(server, delay)
            yield from patience.wait(pause)
            attempt += 1

    def _ask(self, server: str, request: Send) -> Operation[Reply | ConnectionFailedError]:
        answered = False
        try:
            outcome = yield from send(replace(request, server=server))
            answered = isinstance(outcome, Reply) and outcome.status_code not in RETRIED_STATUSES
            return outcome
        finally:
            self._servers.done(server, answered)

    def _flow(
        self,
        img1: ImageInput,
        img2: ImageInput,
        wanted: requests.FlowRequest,
    ) -> Operation[FlowResult]:
        def make(frames: Sequence[ImageInput]) -> Send:
            first, second = frames
            return requests.flow(first, second, wanted)

        reply, shape = yield from self._ask_for_frames([img1, img2], make, wanted.max_side)
        result = yield from work(partial(read_flow, reply, wanted.direction, wanted.occlusion))
        return result if shape is None else (yield from work(partial(enlarge_pair, result, shape)))

    def _analyze(
        self, frames: Iterable[ImageInput], wanted: requests.FlowRequest
    ) -> Operation[AnalyzeResult]:
        def make(frames: Sequence[ImageInput]) -> Send:
            return requests.analyze(frames, wanted)

        images = requests.as_list(frames, "frames")
        reply, shape = yield from self._ask_for_frames(images, make, wanted.max_side)
        result = yield from work(
            partial(read_analysis, reply, len(images), wanted.direction, wanted.occlusion)
        )
        return result if shape is None else (yield from work(partial(enlarge_analysis, result, shape)))

    def _ask_for_frames(
        self,
        frames: Sequence[ImageInput],
        make: Callable[[Sequence[ImageInput]], Send],
        max_side: int | None,
    ) -> Operation[tuple[Reply, tuple[int, ...] | None]]:
        """The reply to frames, and their height and width when they were sent smaller than they are.

        Arrays and PIL images that the server refuses as too large are sent as large as it computes them.
        """
        request = yield from work(partial(make, frames))
        if not are_pixels(frames):
            return (yield from self._call_with_advice(request, _ADVICE_FOR_FILES)), None
        is_large = requests.body_bytes(request) > _LARGE_BODY
        limits = (yield from self._clip_limits_or_none()) if is_large else None
        if limits is None or requests.body_bytes(request) <= limits.body_bytes:
            try:
                return (yield from self._call_with_advice(request, _ADVICE_FOR_PIXELS)), None
            except PayloadTooLargeError:
                limits = limits or (yield from self._clip_limits_or_none())
                shape = size_of(frames[0])
                if limits is None or limits.computed_size(shape, max_side) == shape:
                    raise
        small = yield from work(partial(shrink_pixels, frames, max_side, limits))
        request = yield from work(partial(make, small))
        return (yield from self._call_with_advice(request, _ADVICE_FOR_PIXELS)), size_of(frames[0])

    def _call_with_advice(self, request: Send, advice: str) -> Operation[Reply]:
        """As `_call`; the error for what is too large says what to do."""
        try:
            return (yield from self._call(request))
        except PayloadTooLargeError as error:
            advise(error, advice)
            raise

    def _clip(
        self, frames: list[Image], options: VideoOptions, limits: ClipLimits, patience: Patience
    ) -> Operation[AnalyzeResult]:
        """The analysis of a clip; in parts that overlap by one frame when its files are too large for one."""
        size = limits.computed_size(frames[0].shape, options.max_side)
        frames = yield from work(partial(shrink, frames, size))
        request = yield from work(partial(requests.analyze, frames, options.request()))
        if requests.body_bytes(request) > limits.body_bytes and len(frames) > 2:
            middle = len(frames) // 2
            halves = frames[: middle + 1], frames[middle:]
            parts = []
            for half in halves:
                parts.append((yield from self._clip(half, options, limits, patience)))
            return join_parts(parts)
        reply = yield from self._call(request, patience)
        reader = partial(read_analysis, reply, len(frames), options.direction, options.occlusion)
        return (yield from work(reader))

    def _clip_limits(self, patience: Patience) -> Operation[ClipLimits]:
        return read_clip_limits((yield from self._call(Send("GET", "/v1/info"), patience)))

    def _clip_limits_or_none(self) -> Operation[ClipLimits | None]:
        """None where the server does not say them."""
        try:
            return (yield from self._clip_limits(Patience(retries=self.max_retries)))
        except McjepaError:
            return None

    def _embed(
        self,
        images: ImageInput | Iterable[ImageInput],
        dimensions: int | None,
        on_error: requests.OnError,
    ) -> Operation[EmbedResult]:
        listed = requests.as_list(images, "images")
        queue = requests.EmbedQueue(listed, on_error)
        limits = (yield from self._embed_limits()) if len(listed) > 1 else requests.EmbedLimits(1, 1)
        parts: list[EmbedResult] = []
        indices: list[int | None] = []
        while batch := (yield from work(partial(queue.take, limits))):
            try:
                reply = yield from self._call(requests.embed(batch, dimensions))
            except StatusError as error:
                queue.drop(batch, error)
                continue
            parts.append((yield from work(partial(read_embeddings, reply, len(batch), dimensions))))
            indices += [item.image.index for item in batch]
        return _join(parts, indices, queue.failed)

    def _embed_limits(self) -> Operation[requests.EmbedLimits]:
        """How much the server takes at once: asked for once, then remembered."""
        if self._limits is None:
            reply = yield from self._call(Send("GET", "/v1/info"))
            self._limits = read_limits(reply)
        return self._limits

    def _info(self) -> Operation[dict[str, Any]]:
        return read_json((yield from self._call(Send("GET", "/v1/info"))))

    def _models(self) -> Operation[list[dict[str, Any]]]:
        body = read_json((yield from self._call(Send("GET", "/v1/models"))))
        return [model for model in body.get("data", []) if isinstance(model, dict)]

    def _probe(self, path: str) -> Operation[bool]:
        outcome = yield from send(Send("GET", path, timeout=min(_PROBE_TIMEOUT, self.timeout)))
        return isinstance(outcome, Reply) and outcome.status_code == 200

    def _wait_until_ready(self, timeout: float) -> Operation[None]:
        """Only "not reachable" and "not ready" are waited for; anything else is no server of ours."""
        deadline = time.monotonic() + _check_timeout(timeout)
        while True:
            outcome = yield from send(Send("GET", "/readyz", timeout=_PROBE_TIMEOUT))
            if isinstance(outcome, Reply) and outcome.status_code == 200:
                return
            error = _as_error(outcome, Send("GET", "/readyz"))
            hopeless = not isinstance(error, ConnectionFailedError | ServiceUnavailableError)
            if hopeless or time.monotonic() + _PROBE_INTERVAL > deadline:
                raise error
            yield from wait(_PROBE_INTERVAL)


def _as_error(outcome: Reply | ConnectionFailedError, request: Send) -> ConnectionFailedError | StatusError:
    if isinstance(outcome, ConnectionFailedError):
        return outcome
    error = status_error(
        outcome.status_code,
        outcome.content,
        request_id=outcome.request_id,
        retry_after=parse_retry_after(outcome.headers.get("retry-after")),
    )
    images = list(request.images.values())
    is_alone = error.status_code == 413 and len(images) == 1  # of a body that is too large no part is named
    image = images[0] if is_alone else request.images.get(error.param or "")
    names = {name: str(sent) for name, sent in request.images.items()}
    name_images(error, names, None if image is None else str(image))
    if image is not None:
        error.index, error.path = image.index, image.path
    return error


def _worth_retrying(error: ConnectionFailedError | StatusError) -> bool:
    if isinstance(error, ConnectionFailedError):
        return not isinstance(error.__cause__, _HOPELESS)
    return error.status_code in RETRIED_STATUSES


def _join(parts: list[EmbedResult], indices: list[int | None], failed: list[McjepaError]) -> EmbedResult:
    """The parts of a split request as one result."""
    usage: dict[str, int] = {}
    for part in parts:
        for name, count in part.usage.items():
            usage[name] = usage.get(name, 0) + count
    vectors = np.concatenate([part.embeddings for part in parts] or [np.empty((0, 0), np.float32)])
    model = parts[0].model if parts else ""
    return EmbedResult(
        vectors,
        model,
        usage,
        np.array(indices, np.int64),
        tuple(sorted(failed, key=lambda error: error.index or 0)),
    )


def _check_urls(urls: str | Sequence[str]) -> tuple[str, ...]:
    """One address, several separated by commas, or several; each once."""
    listed = urls.split(",") if isinstance(urls, str) else urls
    if not isinstance(listed, Iterable) or isinstance(listed, bytes):
        raise InputError(f"base_url: expected http://HOST:PORT, got {urls!r}")
    texts = list(listed)
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"base_url: expected http://HOST:PORT, got {text!r}")
    checked = tuple(dict.fromkeys(_check_url(url.strip()) for url in texts if url.strip()))
    if not checked:
        raise InputError(f"base_url: expected http://HOST:PORT, got {urls!r}")
    return checked


def _check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers as a dict. Raises InputError, without the value: it may be secret."""
    if not isinstance(headers, Mapping):
        raise InputError(f"headers: expected a mapping of names to values, got {type(headers).__name__}")
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise InputError(f"headers: {name!r} is no name of a header")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            raise InputError(f"headers: {name}: expected printable ASCII text without spaces around it")
    return dict(headers)


def _authorization(api_key: str | None, headers: Mapping[str, str]) -> dict[str, str]:
    if not api_key or "authorization" in {name.lower() for name in headers}:
        return {}
    if not isinstance(api_key, str) or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        # without the key: it is secret
        raise InputError(f"api_key: expected printable ASCII without spaces (is it {API_KEY_VARIABLE}?)")
    return {"Authorization": f"Bearer {api_key}"}


def _check_url(url: str) -> str:
    try:
        parts = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError) as error:
        raise InputError(f"base_url: {url!r} is no URL ({error})") from error
    if parts.scheme not in ("http", "https") or not parts.host or parts.query or parts.fragment:
        raise InputError(f"base_url: expected http://HOST:PORT or https://..., got {url!r}")
    if parts.port is not None and not 0 < parts.port < 2**16:
        raise InputError(f"base_url: expected a port from 1 to 65535, got {url!r}")
    return url.rstrip("/")


def _check_timeout(timeout: float) -> float:
    if not isinstance(timeout, Real) or not 0 < timeout < float("inf"):
        raise InputError(f"timeout: expected a positive number of seconds, got {timeout!r}")
    return timeout


def _check_retries(max_retries: int) -> int:
    if not isinstance(max_retries, Integral) or max_retries < 0:
        raise InputError(f"max_retries: expected a whole number of 0 or more, got {max_retries!r}")
    return max_retries
