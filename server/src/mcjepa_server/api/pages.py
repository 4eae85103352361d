"""GET / and GET /docs: the web page and the page of Swagger UI, with their files."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import re
from pathlib import PurePath

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
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


#: Under the folder of the page's own files, which needs no API key.
FOLDER = "static/swagger"
SCRIPT, STYLE, ICON = FILES = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")


@router.get("/docs")
@router.head("/docs")
def docs(request: Request) -> HTMLResponse:
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=f"{request.app.title}: documentation",
        swagger_js_url=f"{FOLDER}/{SCRIPT}",
        swagger_css_url=f"{FOLDER}/{STYLE}",
        swagger_favicon_url=f"{FOLDER}/{ICON}",
    )
    page.headers.update(HEADERS)
    page.headers["Content-Security-Policy"] = policy(bytes(page.body).decode())
    return page


@functools.cache
def _swagger_files() -> PageFiles:
    return PageFiles(packages=[("fastapi_swagger", "resources")])


@router.get(f"/{FOLDER}/{{name}}")
@router.head(f"/{FOLDER}/{{name}}")
async def swagger(name: str, request: Request) -> Response:
    if name not in FILES:
        raise HTTPException(404)
    return await _swagger_files().get_response(name, request.scope)


@router.get("/static/{path:path}")
@router.head("/static/{path:path}")
async def static(path: str, request: Request) -> Response:
    """Not a mount: metrics know it as one path, and errors stay problems. Swagger's files come first."""
    return await _files().get_response(path, request.scope)


def policy(html: str) -> str:
    """Allow the page's own script by its hash, files of this server, and the styles that scripts set."""
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    own = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; connect-src 'self'; script-src 'self' {own}; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
