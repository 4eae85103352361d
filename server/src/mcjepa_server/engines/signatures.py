"""What each exported graph must take and give, in whatever runtime it was opened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mcjepa_server.engines.contract import EMBED, FLOW, FLOW_BIDIRECTIONAL, Contract, flow_model
from mcjepa_server.errors import ContractError
from mcjepa_server.types import BETTER, FAST, QUALITIES, Quality

#: The models in parts: what is needed of a frame, the flow between two, the embedding of a small image.
FRAME, MATCH, SMALL = "frame", "match", "embed"
#: What a frame gives to match it, and what the better qualities match of it besides.
MAPS, DETAILS = ("map_8", "map_16", "map_32", "grey"), "details"

_ANY = -1  # a size that the parts agree on among themselves


class Tensor(NamedTuple):
    """An input or output; sizes that are not whole numbers are free, or unknown to the graph."""

    name: str
    type: str  # as ONNX Runtime writes it
    shape: Sequence[Any]


def details_part(quality: Quality) -> str:
    """Return the name of the part that gives a frame's details, for a quality above fast."""
    return f"details_{quality}"


def match_part(quality: Quality) -> str:
    """Return the name of the part that matches two frames in a quality."""
    return MATCH if quality == FAST else f"{MATCH}_{quality}"


def parts_of(quality: Quality) -> list[str]:
    """Return the names of the parts that this quality alone needs."""
    return [match_part(quality)] if quality == FAST else [details_part(quality), match_part(quality)]


def matched(quality: Quality, end: str) -> list[str]:
    """Return the inputs of :func:`match_part` of one frame; ``end`` is start or end, of the flow."""
    return [f"{end}_{name}" for name in (MAPS if quality == FAST else (*MAPS, DETAILS))]


def graph_file(repository: Path, name: str) -> Path:
    """The file of a model or of a part. Raises ContractError if there is none."""
    path = repository / _place(name)
    if not path.is_file():
        raise ContractError(f"{_place(name)} is missing from the model repository; `mcjepa export` writes it")
    return path


def cannot_be_loaded(name: str, error: Exception) -> ContractError:
    return ContractError(f"{_place(name)} cannot be loaded: {str(error)[:300]}")


def _place(name: str) -> str:
    folders = {FRAME: FLOW, SMALL: EMBED}
    folders |= dict.fromkeys([*map(details_part, BETTER), *map(match_part, QUALITIES)], FLOW)
    return f"{folders[name]}/1/{name}.onnx" if name in folders else f"{name}/1/model.onnx"


def check_graph(contract: Contract, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Raises ContractError naming the tensor that is missing, of another type or of another shape."""
    expected_inputs, expected_outputs = _signature(contract, name)
    if {tensor.name for tensor in inputs} != {tensor.name for tensor in expected_inputs}:
        found = ", ".join(tensor.name for tensor in inputs)
        wanted = ", ".join(tensor.name for tensor in expected_inputs)
        raise ContractError(f"{name}: the graph's inputs are {found}, expected {wanted}")
    _check_tensors(name, "input", inputs, expected_inputs)
    _check_tensors(name, "output", outputs, expected_outputs)


def _signature(contract: Contract, name: str) -> tuple[list[Tensor], list[Tensor]]:
    size, side = contract.embedding_size, contract.embed_image_size
    frames = Tensor("frames", "tensor(uint8)", (None, None, None, None, 3))
    flow = Tensor("flow", "tensor(float)", (None, None, 2, None, None))
    backward = Tensor("flow_backward", "tensor(float)", (None, None, 2, None, None))
    embeddings = Tensor("embedding", "tensor(float)", (None, None, size))
    images = Tensor("images", "tensor(uint8)", (None, side, side, 3))
    embedding = Tensor("embedding", "tensor(float)", (None, size))
    frame = Tensor("frames", "tensor(uint8)", (None, None, None, 3))
    one_flow = Tensor("flow", "tensor(float)", (None, 2, None, None))
    small = Tensor("small", "tensor(float)", (None, 3, side, side))
    return {
        FRAME: ([frame], [*_maps(MAPS), small]),
        SMALL: ([small], [embedding]),
        **{details_part(q): ([frame], _maps([DETAILS])) for q in BETTER},
        **{match_part(q): (_maps([*matched(q, "start"), *matched(q, "end")]), [one_flow]) for q in QUALITIES},
        **{flow_model(q): ([frames], [flow, embeddings]) for q in QUALITIES},
        FLOW_BIDIRECTIONAL: ([frames], [flow, backward, embeddings]),
        EMBED: ([images], [embedding]),
    }[name]


def _maps(names: Iterable[str]) -> list[Tensor]:
    return [Tensor(name, "tensor(float)", (None, _ANY, None, None)) for name in names]


def _check_tensors(name: str, role: str, found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    by_name = {tensor.name: tensor for tensor in found}
    for want in expected:
        have = by_name.get(want.name)
        if have is None:
            raise ContractError(f"{name}: the graph has no output {want.name!r}, only {', '.join(by_name)}")
        if have.type != want.type or not _shape_fits(have.shape, want.shape, role):
            raise ContractError(
                f"{name}: {role} {want.name!r} is {have.type} {list(have.shape)}, "
                f"expected {want.type} {list(want.shape)}"
            )


def _shape_fits(found: Sequence[Any], expected: Sequence[Any], role: str) -> bool:
    """A fixed size may be unknown to the graph (the canary sees it); a free input size must be free."""
    if len(found) != len(expected):
        return False
    for have, want in zip(found, expected, strict=True):
        if want == _ANY:
            continue
        fixed = isinstance(have, int)
        if want is None and fixed and role == "input":
            return False
        if want is not None and fixed and have != want:
            return False
    return True
