"""Settings: arguments or command-line options first, then ``MCJEPA_*`` variables, then these defaults."""

from __future__ import annotations

import difflib
import os
import re
from argparse import ArgumentParser
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, CliSettingsSource, NoDecode, SettingsConfigDict

from mcjepa_server.types import FAST, Quality

TOPOLOGY = Path("/sys/devices/system/cpu")  # of Linux


def usable_cores() -> int:
    """Those that this process may use, at least 1. Two hardware threads of a core, which share its arithmetic
    units, count as one where the system tells them apart."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = {path.read_text() for path in TOPOLOGY.glob("cpu[0-9]*/topology/thread_siblings_list")}
    return min(allowed, len(cores) or allowed)


EngineName = Literal["auto", "onnxruntime", "openvino", "triton"]


def depends_on_engine(data: dict[str, Any]) -> int:
    """Return how many inferences run at once.

    Triton batches what it gets at once. In ONNX Runtime two inferences with half the threads each do more
    than one after the other; OpenVINO would halve the threads of one that is alone, too.
    """
    if data.get("engine") == "triton" or _auto_triton(data):
        return 32
    if data.get("engine") == "openvino":
        return 1
    return min(2, data.get("intra_op_threads") or usable_cores())


def json_in_production(data: dict[str, Any]) -> Literal["text", "json"]:
    """Return the format of the log."""
    return "json" if data.get("production") else "text"


def _auto_triton(data: dict[str, Any]) -> bool:
    return data.get("engine") == "auto" and bool(data.get("triton_urls"))


#: First segments of the server's own paths: below them nobody could tell whether a prefix was cut off.
_OWN_PATHS = [[name] for name in ("v1", "static", "docs", "openapi.json", "healthz", "readyz", "metrics")]


PREFIX = "MCJEPA_"
#: Variables of the client and of its command, which may be set in the same shell.
OTHERS = frozenset({"MCJEPA_SERVER", "MCJEPA_API_KEY"})


class Settings(BaseSettings):
    """Everything an operator can set. The limits are published at ``/v1/info``."""

    model_config = SettingsConfigDict(env_prefix="MCJEPA_", frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    root_path: str = Field(
        default="", description="Path prefix under which a proxy serves this server, as in /mcjepa."
    )
    engine: EngineName = Field(
        default="auto",
        description="What runs the models; auto is triton where Triton's address is given, else onnxruntime.",
    )
    engine_cache: Path | None = Field(
        default=None,
        description="Where openvino keeps compiled models, for a faster start; default the user's cache.",
    )
    triton_urls: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="HOST:PORT of the gRPC port of each Triton, separated by commas."
    )
    model_version: str | None = Field(
        default=None, description="Be ready with this version of the models only."
    )
    model_repository: Path | None = Field(default=None, description="Folder of the exported models.")
    intra_op_threads: int = Field(
        default=0,
        ge=0,
        description="Threads of an inference that is alone, shared with those beside it; 0 is one per core.",
    )

    production: bool = Field(default=False, description="Refuse to start without API keys; log as JSON.")
    api_keys_file: Path | None = Field(
        default=None, description="File of the names and hashes of API keys; without it everybody may ask."
    )
    allow_anonymous: bool = Field(
        default=False, description="Serve everybody at an address that others can reach, without API keys."
    )
    rate_limit_per_minute: int = Field(
        default=0, ge=0, description="Requests of one API key in a minute, more get 429; 0 is no limit."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Origins whose pages may call from a browser, by commas; at first none."
    )
    log_format: Literal["text", "json"] = Field(
        default_factory=json_in_production,
        description="Of the log on standard error; json in production.",
    )

    tracing: bool = Field(
        default=False, description="Export OpenTelemetry spans; needs the extra otel, and its variables."
    )

    max_concurrency: int = Field(
        default_factory=depends_on_engine,
        ge=1,
        le=256,
        description="Inferences that run at once; default 2, with OpenVINO or one thread 1, with Triton 32.",
    )
    max_queue: int = Field(
        default=32, ge=0, description="Requests that may wait for their turn; more get 429."
    )
    max_queue_pixels: int = Field(
        default=2**26, ge=4096, description="Pixels to compute of all requests inside together; more get 429."
    )
    max_queue_wait_s: float = Field(
        default=10.0,
        gt=0,
        description="A request that would wait longer for the engine, or has, gets 429.",
    )
    max_concurrency_per_key: int = Field(
        default=16, ge=1, description="Requests of one API key that may be inside at once; more get 429."
    )
    request_timeout_s: float = Field(
        default=60.0,
        gt=0,
        description="From the complete body to the reply, else 504; a request may ask for less.",
    )
    body_timeout_s: float = Field(default=60.0, gt=0, description="For the body to arrive, else 408.")
    header_timeout_s: float = Field(
        default=10.0,
        gt=0,
        description="For the headers of a request to arrive, else the connection is closed.",
    )
    write_timeout_s: float = Field(
        default=20.0,
        gt=0,
        description="A caller who falls this far behind reading a reply at 64 KiB/s is cut off.",
    )
    keep_alive_s: int = Field(
        default=75,
        ge=1,
        description="An idle connection is kept for this long; longer than by a balancer in front, often 60.",
    )
    readiness_interval_s: float = Field(
        default=5.0, gt=0, description="Between canary inferences while not ready."
    )
    canary_interval_s: float = Field(
        default=30.0, gt=0, description="Without a good inference for this long, a canary is run."
    )
    failures_to_unready: int = Field(
        default=3, ge=1, description="Engine failures in a row that end readiness."
    )

    drain_delay_s: float = Field(
        default=2.0,
        ge=0,
        description="After SIGTERM: readiness is off and requests are still taken, for balancers to notice.",
    )
    drain_timeout_s: float = Field(
        default=65.0, gt=0, description="After that: for requests inside to finish before they are cut off."
    )

    max_connections: int = Field(default=1000, ge=1, description="Open connections; more are closed at once.")
    max_header_bytes: int = Field(
        default=2**15,
        ge=1024,
        description="Bytes of the request line and the headers of a request, else 431.",
    )
    max_body_bytes: int = Field(default=64 * 2**20, ge=1, description="Bytes of one request body.")
    max_buffered_bytes: int = Field(
        default=2**29, ge=1, description="Bytes of all bodies held at once; more get 429."
    )
    # Enough for all pairs of 32 frames of 1920x1080 both ways with occlusion.
    max_reply_bytes: int = Field(
        default=3 * 2**29,
        ge=1,
        description="Bytes of flows and replies that are made or held at once; more wait, then get 429.",
    )
    max_parts: int = Field(default=2112, ge=2, description="Parts of one multipart body.")
    decode_processes: int = Field(
        default=2,
        ge=0,
        le=64,
        description="Processes that decode images; 0 decodes in the server's own, which a decoder can crash.",
    )
    decode_memory_bytes: int = Field(
        default=2**32,
        ge=2**29,
        description="Address space of such a process in bytes, or less where this process has a limit.",
    )
    decode_timeout_s: float = Field(
        default=30.0, gt=0, description="For such a process to decode one file, else it is ended and 504."
    )
    # Kept under the size at which Pillow itself starts to warn of decompression bombs (89 Mpx).
    max_image_pixels: int = Field(default=2**26, ge=256, le=89_000_000, description="Pixels of one image.")
    max_request_pixels: int = Field(
        default=2**26, ge=256, description="Pixels of all frames of a request together."
    )
    max_frames: int = Field(default=32, ge=2, description="Frames of one /v1/analyze request.")
    max_images: int = Field(default=2048, ge=1, description="Images of one /v1/embeddings request.")
    max_side: int = Field(
        default=1024,
        ge=64,
        description="Longer side at which flow is computed unless the request says otherwise.",
    )
    quality: Quality = Field(
        default=FAST,
        description="How much is computed for a flow unless the request says: fast, balanced or best.",
    )
    max_compute_pixels: int = Field(
        default=2**20, ge=4096, description="Pixels a frame may have at most when its flow is computed."
    )
    shape_buckets: Annotated[tuple[tuple[int, int], ...], NoDecode] = Field(
        default=(),
        description="Padded sizes WIDTHxHEIGHT that frames share, so that Triton can batch them; by commas.",
    )
    max_bucket_overhead: float = Field(
        default=0.25,
        ge=0,
        le=4,
        description="Pixels a bucket may cost beyond multiples of the stride, as a share.",
    )
    max_clip_pixels: int = Field(
        default=2**22,
        ge=8192,
        description="Pixels of the frames given to the engine in one call (bounds memory).",
    )

    @property
    def uses_triton(self) -> bool:
        return self.engine == "triton" or (self.engine == "auto" and bool(self.triton_urls))

    @field_validator("root_path")
    @classmethod
    def _prefix(cls, value: str) -> str:
        value = value.rstrip("/")
        if not re.fullmatch(r"(/[\w.~-]+)*", value, re.ASCII) or {".", ".."} & set(value.split("/")):
            raise ValueError(f"{value!r} is not a path prefix, as in /mcjepa")
        if value.split("/")[1:2] in _OWN_PATHS:
            raise ValueError(f"{value!r} begins like a path of this server; choose another prefix")
        return value

    @field_validator("shape_buckets", mode="before")
    @classmethod
    def _sizes(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        sizes = []
        for part in filter(None, (part.strip() for part in value.split(","))):
            found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", part)
            if found is None:
                raise ValueError(f"{part!r} is not WIDTHxHEIGHT in px, as in 1024x448")
            sizes.append((int(found[1]), int(found[2])))
        return tuple(sizes)

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.production and self.api_keys_file is None:
            raise ValueError(
                "MCJEPA_PRODUCTION needs MCJEPA_API_KEYS_FILE; `mcjepa-server keys add` makes one"
            )
        if self.rate_limit_per_minute and self.api_keys_file is None:
            raise ValueError(
                "MCJEPA_RATE_LIMIT_PER_MINUTE is for each API key; set MCJEPA_API_KEYS_FILE, too"
            )
        return self

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _origins(cls, value: Any) -> tuple[str, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        origins = tuple(part.strip() for part in parts if part.strip())
        for origin in origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
                raise ValueError(f"{origin!r} is not an origin, as in https://example.org")
        return origins

    @field_validator("triton_urls", mode="before")
    @classmethod
    def _addresses(cls, value: Any) -> tuple[str, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        urls = tuple(part.strip() for part in parts if part.strip())
        for url in urls:
            if not re.fullmatch(r"[^/\s]+:\d{1,5}", url):
                raise ValueError(f"{url!r} is not HOST:PORT, the address of Triton's gRPC port")
        return urls


class ConfigError(Exception):
    """A setting is wrong; the message names every one that is."""


def add_options(parser: ArgumentParser) -> CliSettingsSource[ArgumentParser]:
    """Add an option for every setting to a parser, and return what reads them."""
    return CliSettingsSource(
        Settings,
        root_parser=parser,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
    )


def load_settings(options: CliSettingsSource[ArgumentParser]) -> Settings:
    """Return the settings: options go before variables, and these before defaults. Raises ConfigError."""
    try:
        return Settings(_cli_settings_source=options)  # type: ignore[call-arg]  # unknown to the plugin
    except ValidationError as error:
        raise ConfigError("; ".join(_lines(error, options()))) from None


def _lines(error: ValidationError, options: Collection[str]) -> Iterable[str]:
    for item in error.errors(include_url=False):
        if item["type"] == "default_factory_not_called":  # of a default that another setting decides
            continue
        text = item["msg"].removeprefix("Value error, ")
        if not item["loc"]:  # of several settings, which the text names
            yield text
            continue
        name = str(item["loc"][0])
        source = f"--{name.replace('_', '-')}" if name in options else PREFIX + name.upper()
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
