"""API keys as ``Authorization: Bearer KEY``, and how often each may ask."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mcjepa_server.errors import ApiError, Forbidden, RateLimited, Unauthorized
from mcjepa_server.http.keys import Key, KeyRing, today
from mcjepa_server.http.middleware import route_path
from mcjepa_server.http.problems import problem_response

#: For whoever watches over the server or is about to learn how to call it. They tell nothing of anybody.
OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/docs", "/openapi.json"})
OPEN_FOLDERS = ("/static/",)
METRICS_PATH = "/metrics"


class Access:
    """Pure ASGI. Refuses before the application sees the request, let alone reads its body."""

    def __init__(self, app: ASGIApp, keys: KeyRing, per_minute: int) -> None:
        self.app = app
        self._keys = keys
        self._rate = RateLimit(per_minute) if per_minute else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["type"] == "http" and not _is_open(path := route_path(scope)):
                key = await self._identify(Headers(scope=scope))
                scope["state"]["api_key"] = key.name
                if key.scope == "metrics":
                    if path != METRICS_PATH:
                        raise Forbidden(f"the API key {key.name} is for {METRICS_PATH} alone")
                elif self._rate is not None:
                    self._rate.take(key.name)
        except ApiError as error:
            await problem_response(error, scope)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    async def _identify(self, headers: Headers) -> Key:
        scheme, _, presented = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not presented.strip():
            raise Unauthorized(
                "an API key is needed: send the header Authorization: Bearer KEY",
                headers={"WWW-Authenticate": "Bearer"},
            )
        await self._keys.refresh()
        key = self._keys.identify(presented.strip())
        if key is None:
            raise _invalid("the API key is not known")
        if key.revoked:
            raise _invalid(f"the API key {key.name} was revoked")
        if key.state(today()) == "expired":
            raise _invalid(f"the API key {key.name} expired: its last day was {key.expires} (UTC)")
        return key


def _invalid(message: str) -> Unauthorized:
    return Unauthorized(message, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


class RateLimit:
    """A token bucket for each key: a minute's worth may come at once, and comes back evenly.

    By the monotonic clock: a step of the wall clock neither locks anybody out nor lets anybody in.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, and when they were counted

    def take(self, key: str) -> None:
        """Counts a request. Raises RateLimited with the seconds until the next one may come."""
        now = self._clock()
        tokens, then = self._buckets.get(key, (float(self.per_minute), now))
        tokens = min(self.per_minute, tokens + (now - then) * self.per_minute / 60)
        allowed = tokens >= 1
        self._buckets[key] = (tokens - allowed, now)
        if not allowed:
            wait = math.ceil((1 - tokens) * 60 / self.per_minute)
            raise RateLimited(
                f"this API key may send {self.per_minute} requests a minute (rate_limit_per_minute)",
                headers={"Retry-After": str(max(1, wait))},
            )
