"""Who may ask: API keys as ``Authorization: Bearer KEY``, and how often each may."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mcjepa_server.errors import ApiError, Forbidden, Unauthorized
from mcjepa_server.keys import Key, KeyRing, today
from mcjepa_server.problems import problem_response
from mcjepa_server.ratelimit import RateLimit
from mcjepa_server.root_path import route_path

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
