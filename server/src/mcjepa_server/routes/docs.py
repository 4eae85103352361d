"""GET /docs: the page on which every call can be tried, with the files of Swagger UI from a package."""

from __future__ import annotations

import base64
import functools
import hashlib
import re

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from mcjepa_server.routes.page import HEADERS, PageFiles

router = APIRouter(include_in_schema=False)

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
def _files() -> PageFiles:
    return PageFiles(packages=[("fastapi_swagger", "resources")])


@router.get(f"/{FOLDER}/{{name}}")
@router.head(f"/{FOLDER}/{{name}}")
async def swagger(name: str, request: Request) -> Response:
    if name not in FILES:
        raise HTTPException(404)
    return await _files().get_response(name, request.scope)


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
