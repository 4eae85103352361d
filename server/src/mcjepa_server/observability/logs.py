"""The log: on standard error, as text for people or as one JSON object a line for machines.

Every line written during a request carries its id. Images, keys and query strings are never written.
"""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from typing import Literal

#: Of the request that the current task works for.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_TEXT = "%(levelname)s: %(name)s: %(message)s"
_FIELDS = ("timestamp", "levelname", "name", "message", "request_id")
_NOISE = ("color_message", "taskName")


def configure(form: Literal["text", "json"]) -> None:
    """Replaces whatever was configured, for the whole process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_add_request_id)
    handler.setFormatter(_json() if form == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _add_request_id(record: logging.LogRecord) -> bool:
    if not hasattr(record, "request_id"):
        record.request_id = request_id.get()
    return True


def _json() -> logging.Formatter:
    from pythonjsonlogger.core import RESERVED_ATTRS  # only where it is asked for
    from pythonjsonlogger.json import JsonFormatter

    return JsonFormatter(
        list(_FIELDS),
        rename_fields={"levelname": "level", "name": "logger"},
        reserved_attrs=[*RESERVED_ATTRS, *_NOISE],
        timestamp=True,
    )
