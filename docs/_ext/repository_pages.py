"""Publish Markdown files from elsewhere in the repository, and keep links between them working.

Links in the sources are those of the repository, so that they work where it is browsed. The site changes them
as it reads a page: a link to a published file becomes one to its page.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent

#: Page of the site -> the file of the repository that it shows.
PUBLISHED = {
    "reference/client": ROOT / "client" / "README.md",
    "reference/server": ROOT / "server" / "README.md",
    "reference/training": ROOT / "export" / "README.md",
    "reference/model-card": ROOT / "model_repository" / "MODEL_CARD.md",
    "contributing": ROOT / "CONTRIBUTING.md",
    "changelog": ROOT / "CHANGELOG.md",
}
PAGE_OF = {path: DOCS / f"{page}.md" for page, path in PUBLISHED.items()} | {
    ROOT / "README.md": DOCS / "index.md",
    DOCS / "decisions": DOCS / "decisions" / "README.md",
}
#: Pages whose children are all pages beside them, listed by a hidden table of contents.
PARENTS = {"decisions/README": "[0-9]*", "experiments/index": "*"}

LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)")


def read_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace a page by the file that it shows, and point links to pages of the site."""
    page = DOCS / f"{docname}.md"
    shown = PUBLISHED.get(docname, page)
    text = shown.read_text() if docname in PUBLISHED else source[0]
    source[0] = LINK.sub(lambda link: _target(link[1], shown.parent, page.parent), text)
    if docname in PARENTS:
        source[0] += f"\n```{{toctree}}\n:hidden:\n:glob:\n\n{PARENTS[docname]}\n```\n"


def _target(link: str, written_in: Path, shown_in: Path) -> str:
    path = Path(os.path.normpath(written_in / link))
    return os.path.relpath(PAGE_OF.get(path, path), shown_in)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", read_page)
    return {"parallel_read_safe": True}
