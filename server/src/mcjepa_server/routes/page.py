"""GET / and its files: the web page, whose policy lets it load nothing from elsewhere."""

from __future__ import annotations

import functools
import os
from pathlib import PurePath

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

#: Pictures and videos that someone chose are blob: URLs; everything else comes from this server.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Always asked for again, and answered with 304 while nothing has changed: an upgrade is seen at once.
    "Cache-Control": "no-cache",
}
#: Not left to the table of the operating system, which may lack some and be wrong in others.
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".png": "image/png",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webm": "video/webm",
    ".webp": "image/webp",
}


class PageFiles(StaticFiles):
    """Starlette's, which gives ETag, Last-Modified and 304, with the page's headers."""

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(HEADERS)
        if response.status_code != 304:
            response.headers["Content-Type"] = MEDIA_TYPES[PurePath(full_path).suffix]
        return response


router = APIRouter(include_in_schema=False)


@functools.cache
def _files() -> PageFiles:
    return PageFiles(packages=[("mcjepa_server", "static")])


@router.get("/")
@router.head("/")
async def index(request: Request) -> Response:
    return await _files().get_response("index.html", request.scope)


@router.get("/static/{path:path}")
@router.head("/static/{path:path}")
async def static(path: str, request: Request) -> Response:
    """A route and not a mount, so that metrics know it as one path and errors stay problems."""
    return await _files().get_response(path, request.scope)
