"""The contract of a model repository, read from the ``parameters`` of its ``config.pbtxt`` files."""

from __future__ import annotations

import math
import re
import runpy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import tritonclient
from google.protobuf import text_format

from mcjepa_server.errors import ContractError
from mcjepa_server.types import BETTER, FAST, QUALITIES, Quality

CONTRACT_VERSION = "1"
FLOW = "mcjepa_flow"
FLOW_BIDIRECTIONAL = "mcjepa_flow_bidirectional"
EMBED = "mcjepa_embed"
MODEL_NAMES = (FLOW, FLOW_BIDIRECTIONAL, EMBED)  # every model repository has these


#: What the configurations must agree on.
SHARED_FIELDS = (
    "model_version",
    "weights_sha256",
    "stride",
    "mean",
    "std",
    "embedding_size",
    "embed_image_size",
)

T = TypeVar("T")


class Figures(NamedTuple):
    """What was measured of a quality when it was exported, None where nothing was.

    ``error_px``: geometric mean of end-point errors over benchmarks; ``relative_cost``: time over that of
    OpenCV's DIS medium, on a CPU.
    """

    error_px: float | None
    relative_cost: float | None


NOT_MEASURED = Figures(None, None)


@dataclass(frozen=True)
class Contract:
    """What the exported models promise. ``max_batch_size`` is that of the embedding model.

    ``smallest_side`` (px) is not in the files: below it, flow is wrong with every model of this architecture,
    which sees 1/64 of the size at its coarsest (decision 0045).
    """

    model_version: str
    weights_sha256: str
    stride: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    embedding_size: int
    embed_image_size: int
    training_summary: str
    license: str
    max_batch_size: int
    smallest_side: int = 128
    qualities: Mapping[Quality, Figures] = field(default_factory=lambda: {FAST: NOT_MEASURED})
    figures: Figures = NOT_MEASURED  # of this model, where it is one of flow


def flow_model(quality: Quality) -> str:
    """Return the name of the model that computes flow in one direction in this quality."""
    return FLOW if quality == FAST else f"{FLOW}_{quality}"


def model_names(qualities: Iterable[Quality]) -> list[str]:
    """Return the names of the models of a repository that has these qualities."""
    return [FLOW_BIDIRECTIONAL, EMBED, *map(flow_model, qualities)]


def load_contract(repository: Path) -> Contract:
    """Reads and compares the configurations. Raises ContractError naming the file and the field."""
    better = [name for name in map(flow_model, BETTER) if (repository / name).is_dir()]
    names = [*MODEL_NAMES, *better]
    return combine({name: read_config(repository / name / "config.pbtxt", name) for name in names})


def combine(contracts: Mapping[str, Contract]) -> Contract:
    """The one contract of all models. Raises ContractError naming what they disagree on."""
    for name, contract in contracts.items():
        if fields := _differences(contracts[FLOW], contract):
            raise ContractError(f"{FLOW} and {name} disagree on {', '.join(fields)}: export them together")
    of_qualities = {quality: contracts.get(flow_model(quality)) for quality in QUALITIES}
    qualities = {quality: contract.figures for quality, contract in of_qualities.items() if contract}
    return replace(contracts[EMBED], qualities=qualities)


def same_contract(found: Contract, expected: Contract) -> None:
    """Raises ContractError unless both are of the same weights and sizes; it names the fields and values."""
    if fields := _differences(found, expected):
        texts = [
            f"{field} is {getattr(found, field)}, expected {getattr(expected, field)}" for field in fields
        ]
        raise ContractError("; ".join(texts))
    if missing := [quality for quality in expected.qualities if quality not in found.qualities]:
        raise ContractError(f"qualities are {', '.join(found.qualities)}, expected {', '.join(missing)}, too")


def check_version(contract: Contract, expected: str | None) -> None:
    """Raises ContractError if a version is asked for, and is not the one found."""
    if expected is not None and contract.model_version != expected:
        raise ContractError(
            f"model_version is {contract.model_version}, expected {expected} (MCJEPA_MODEL_VERSION)"
        )


def _differences(first: Contract, second: Contract) -> list[str]:
    return [field for field in SHARED_FIELDS if getattr(first, field) != getattr(second, field)]


def read_config(path: Path, name: str) -> Contract:
    """Parses one config.pbtxt."""
    config = _triton_config()
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), config)
    except FileNotFoundError:
        raise ContractError(f"{name}/config.pbtxt is missing from the model repository") from None
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ContractError(f"{name}/config.pbtxt cannot be read: {error}") from error
    return contract_of_config(config, name)


def _triton_config() -> Any:
    """An empty ModelConfig. Its package would import gRPC with it, 10 MB that only TritonEngine needs."""
    module = Path(tritonclient.__path__[0], "grpc", "model_config_pb2.py")
    return runpy.run_path(str(module))["ModelConfig"]()


def contract_of_config(config: Any, name: str) -> Contract:
    """The contract in a ``ModelConfig``, of a file or of a running Triton."""
    if config.name != name:
        raise ContractError(f"{name}/config.pbtxt is for a model named {config.name!r}")
    if config.max_batch_size < 1:
        raise ContractError(f"{name}: max_batch_size is {config.max_batch_size}, expected 1 or more")
    values = {key: value.string_value for key, value in config.parameters.items()}
    return parse_parameters(name, values, config.max_batch_size)


def parse_parameters(name: str, values: Mapping[str, str], max_batch_size: int) -> Contract:
    """Checks every parameter; the message of a failure names the model, the key and the value."""

    def field(key: str, parse: Callable[[str], T], expected: str) -> T:
        if key not in values:
            raise ContractError(f"{name}: parameter {key!r} is missing from config.pbtxt")
        try:
            return parse(values[key])
        except ValueError:
            raise ContractError(
                f"{name}: parameter {key!r} is {values[key]!r}, expected {expected}"
            ) from None

    field("contract_version", _exactly(CONTRACT_VERSION), CONTRACT_VERSION)
    return Contract(
        model_version=field("model_version", _text, "a non-empty text"),
        weights_sha256=field("weights_sha256", _sha256, "64 hexadecimal digits"),
        stride=field("stride", _positive, "a positive whole number"),
        mean=field("mean", _three_floats, "three numbers"),
        std=field("std", _three_floats, "three numbers"),
        embedding_size=field("embedding_size", _positive, "a positive whole number"),
        embed_image_size=field("embed_image_size", _positive, "a positive whole number"),
        training_summary=field("training_summary", str, "a text"),
        license=field("license", str, "a text"),
        max_batch_size=max_batch_size,
        figures=Figures(*(_positive_or_none(values.get(key)) for key in Figures._fields)),
    )


def _positive_or_none(text: str | None) -> float | None:
    """Return a number that only informs, or None for anything else."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 < number < math.inf else None


def _exactly(wanted: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text != wanted:
            raise ValueError
        return text

    return parse


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError
    return text


def _sha256(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise ValueError
    return text.lower()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _three_floats(text: str) -> tuple[float, ...]:
    numbers = tuple(float(part) for part in text.split(","))
    if len(numbers) != 3:
        raise ValueError
    return numbers
