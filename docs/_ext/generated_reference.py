"""Directives that write the reference from the code: SDK, settings of the server, OpenAPI document."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any, ClassVar

import mcjepa_client
from docutils import nodes
from mcjepa_server import Settings
from mcjepa_server.app import create_app
from pydantic_core import PydanticUndefined
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class _Generated(SphinxDirective):
    """A directive whose content is Markdown made by ``markdown``."""

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(self.markdown(), allow_section_headings=True)

    def markdown(self) -> str:
        raise NotImplementedError


class SdkNames(_Generated):
    """Document the public names of the client of one kind: clients, results, functions, errors or modules."""

    required_arguments = 1

    def markdown(self) -> str:
        lines = [f".. {self._directive(name)}" for name in _names_of(self.arguments[0])]
        return "```{eval-rst}\n" + "\n\n".join(lines) + "\n```\n"

    def _directive(self, name: str) -> str:
        options = {
            "clients": ":members:\n   :inherited-members:",
            "results": ":members:\n   :inherited-members: tuple",
            "functions": "",
            "errors": ":show-inheritance:",
            "modules": ":members:",
        }[self.arguments[0]]
        kind = {"functions": "autofunction", "modules": "automodule"}.get(self.arguments[0], "autoclass")
        target = f"{kind}:: mcjepa_client.{name}"
        return f"{target}\n   {options}" if options else target


def _names_of(kind: str) -> list[str]:
    """Return the public names of one kind in alphabetical order, but Client before AsyncClient."""
    names = [name for name in mcjepa_client.__all__ if _kind(name) == kind]
    return sorted(names, key=lambda name: (name.startswith("Async"), name))


def _kind(name: str) -> str:
    value = getattr(mcjepa_client, name)
    if inspect.ismodule(value):
        return "modules"
    if not inspect.isclass(value):
        return "functions" if callable(value) else "constants"
    if issubclass(value, BaseException):
        return "errors"
    return "clients" if name.endswith("Client") else "results"


class ServerSettings(_Generated):
    """List every setting of the server: variable, default, bounds and meaning."""

    def markdown(self) -> str:
        rows = ["| Variable | Default | Bounds | Meaning |", "|---|---|---|---|"]
        for name, field in Settings.model_fields.items():
            bounds = ", ".join(f"{_SIGNS[kind]} {value}" for kind, value in _bounds(field.metadata))
            rows.append(f"| `MCJEPA_{name.upper()}` | {_default(field)} | {bounds} | {field.description} |")
        return "\n".join(rows) + "\n"


_SIGNS = {"ge": "at least", "gt": "over", "le": "at most", "lt": "under"}


def _bounds(metadata: list[Any]) -> list[tuple[str, Any]]:
    return [(kind, getattr(item, kind)) for item in metadata for kind in _SIGNS if hasattr(item, kind)]


def _default(field: Any) -> str:
    if field.default is PydanticUndefined:
        return "depends on other settings"
    value = field.default
    if value is None or value in ("", ()):
        return "none"
    if isinstance(value, int) and value and value % 2**20 == 0:
        return f"`{value}` ({value // 2**20} Mi)"
    return f"`{value}`"


class OpenApi(_Generated):
    """Describe every call of the server from its OpenAPI document."""

    methods: ClassVar = ("get", "post", "put", "delete")

    def markdown(self) -> str:
        document = openapi_document()
        parts = []
        for path, operations in document["paths"].items():
            for method in self.methods:
                if operation := operations.get(method):
                    parts.append(_operation(method, path, operation, document))
        return "\n".join(parts)


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI document of a server with default settings; no model is loaded."""
    return create_app(Settings()).openapi()


def _operation(method: str, path: str, operation: dict[str, Any], document: dict[str, Any]) -> str:
    lines = [
        f"## {method.upper()} `{path}`",
        "",
        operation.get("description") or operation.get("summary", ""),
        "",
    ]
    rows = [
        _row(p["name"], p["in"], p.get("required"), p["schema"], p.get("description"))
        for p in operation.get("parameters", [])
    ]
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = _resolve(content.get("schema", {}), document)
        required = schema.get("required", [])
        rows += [
            _row(name, f"`{media_type}`", name in required, member, member.get("description"))
            for name, member in schema.get("properties", {}).items()
        ]
    if rows:
        lines += ["| Name | In | Required | Type | Meaning |", "|---|---|---|---|---|", *rows, ""]
    lines += ["| Status | Meaning | Body |", "|---|---|---|"]
    for status, response in operation["responses"].items():
        bodies = ", ".join(f"`{media_type}`" for media_type in response.get("content", {}))
        lines.append(f"| {status} | {_cell(response.get('description'))} | {bodies} |")
    return "\n".join([*lines, ""])


def _row(
    name: str, place: str, required: bool | None, schema: dict[str, Any], description: str | None
) -> str:
    text = _cell(description or schema.get("description"))
    return f"| `{name}` | {place} | {'yes' if required else ''} | {_type(schema)} | {text} |"


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if schema.get("format") == "binary" or "contentMediaType" in schema:
        return "file"
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(option) for option in options))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("const", schema.get("type", "any")))


def _resolve(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def plain_docstring(_app: Sphinx, _what: str, _name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
    """Read docstrings as plain text: of reStructuredText's marks only backquotes count.

    Names of arguments that share a description may go over two lines.
    """
    text = "\n".join(lines)
    text = re.sub(r"^( *(?:\w+, )*\w+,)\n +((?:\w+, )*\w+: )", r"\1 \2", text, flags=re.MULTILINE)
    lines[:] = re.sub(r"(``[^`]+``|`[^`]+`)|([*|])", lambda found: found[1] or f"\\{found[2]}", text).split(
        "\n"
    )


def write_openapi(app: Sphinx, exception: Exception | None) -> None:
    """Leave the document itself beside the pages, for tools that generate clients."""
    if exception is None and app.builder.format == "html":
        (Path(app.outdir) / "openapi.json").write_text(json.dumps(openapi_document(), indent=2))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("sdk-names", SdkNames)
    app.add_directive("server-settings", ServerSettings)
    app.add_directive("openapi-calls", OpenApi)
    app.connect("autodoc-process-docstring", plain_docstring, priority=400)  # before napoleon
    app.connect("build-finished", write_openapi)
    return {"parallel_read_safe": True}
