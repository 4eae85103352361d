"""GET /docs: the page on which every call can be tried."""

from __future__ import annotations

import base64
import hashlib
import re

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

#: Where FastAPI's page has its script and style from.
CDN = "https://cdn.jsdelivr.net"


@router.get("/docs")
def docs(request: Request) -> HTMLResponse:
    app = request.app
    page = get_swagger_ui_html(openapi_url="openapi.json", title=f"{app.title}: documentation")
    page.headers["Content-Security-Policy"] = policy(bytes(page.body).decode())
    return page


def policy(html: str) -> str:
    """Allows the page's own script by its hash, and the rest by where it comes from."""
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    own = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; connect-src 'self'; script-src {CDN} {own}; "
        f"style-src {CDN} 'unsafe-inline'; img-src data: https://fastapi.tiangolo.com; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
