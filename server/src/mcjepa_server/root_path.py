"""The path prefix under which a proxy serves this server, for everything inside to see in the same way."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class RootPath:
    """Pure ASGI, the outermost layer. Behind it ``scope["path"]`` begins with ``scope["root_path"]``.

    A proxy may cut the prefix off or leave it. ``prefix`` is that of the settings; without one, an outer
    application's holds. Redirects name no host and no scheme: behind a proxy, ours are not the caller's.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self.app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        prefix = self._prefix or scope.get("root_path", "").rstrip("/")
        path = scope["path"]
        if path != prefix and not path.startswith(f"{prefix}/"):
            path = prefix + path
        scope["root_path"], scope["path"] = prefix, path

        async def send_relative(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if "location" in headers:
                    headers["location"] = (
                        urlsplit(headers["location"])._replace(scheme="", netloc="").geturl()
                    )
            await send(message)

        await self.app(scope, receive, send_relative)


def route_path(scope: Scope) -> str:
    """Return the path without the prefix."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
