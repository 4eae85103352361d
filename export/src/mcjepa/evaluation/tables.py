"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def markdown_table(columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a row; columns: heading -> key of the rows. What a row lacks, or has as None, is a dash."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = ("-" if row.get(key) is None else str(row[key]) for key in columns.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
