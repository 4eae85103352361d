"""From the command line and the environment to settings; errors name the option or the variable to change."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from mcjepa_server.config import Settings

PREFIX = "MCJEPA_"
#: Variables of the client and of its command, which may be set in the same shell.
OTHERS = frozenset({"MCJEPA_SERVER", "MCJEPA_API_KEY"})


class ConfigError(Exception):
    """A setting is wrong; the message names every one that is."""


def load_settings(options: Mapping[str, Any]) -> Settings:
    """Options go before variables. Raises ConfigError."""
    try:
        return Settings(**options)
    except ValidationError as error:
        raise ConfigError("; ".join(_lines(error, options))) from None


def _lines(error: ValidationError, options: Collection[str]) -> Iterable[str]:
    for item in error.errors(include_url=False):
        if item["type"] == "default_factory_not_called":  # of a default that another setting decides
            continue
        text = item["msg"].removeprefix("Value error, ")
        if not item["loc"]:  # of several settings, which the text names
            yield text
            continue
        name = str(item["loc"][0])
        source = f"--{name.removesuffix('s').replace('_', '-')}" if name in options else PREFIX + name.upper()
        if isinstance(item["input"], str | int | float) and repr(item["input"]) not in text:
            text += f", got {item['input']!r:.100}"
        yield f"{source}: {text}"


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """A complaint for every variable that looks like a setting and is none: most likely a slip."""
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    complaints = []
    for name in sorted(environment):
        if not name.upper().startswith(PREFIX) or name.upper() in {*known, *OTHERS}:
            continue
        close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.8)
        hint = f"; did you mean {close[0]}?" if close else ""
        complaints.append(f"{name} is set, but there is no such setting{hint}")
    return complaints
