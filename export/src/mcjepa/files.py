"""Files of the training package: text and JSON, written atomically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mcjepa.data.files import write_atomic


def write_text(path: Path, text: str) -> None:
    """Write a text file; a reader sees the old one or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, indented."""
    write_text(path, json.dumps(value, indent=1) + "\n")
