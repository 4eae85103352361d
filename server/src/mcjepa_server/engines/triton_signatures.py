"""The tensors that each model must have, compared with Triton's configuration of it."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import model_config_pb2

from mcjepa_server.engines.contract import EMBED, FLOW_BIDIRECTIONAL, Contract, flow_model
from mcjepa_server.errors import ContractError
from mcjepa_server.types import QUALITIES

#: Name to sizes without the batch, -1 where they vary.
Tensors = dict[str, list[int]]


def check_tensors(config: Any, contract: Contract) -> None:
    """Raises ContractError naming the model and the tensor that is missing, of another type or shape."""
    inputs, outputs = _expected(contract)[config.name]
    if {tensor.name for tensor in config.input} != inputs.keys():
        found = ", ".join(tensor.name for tensor in config.input)
        raise ContractError(f"{config.name}: inputs are {found}, expected {', '.join(inputs)}")
    _compare(config.name, config.input, inputs, model_config_pb2.TYPE_UINT8)
    _compare(config.name, config.output, outputs, model_config_pb2.TYPE_FP32)


def _expected(contract: Contract) -> dict[str, tuple[Tensors, Tensors]]:
    size, side = contract.embedding_size, contract.embed_image_size
    frames = {"frames": [-1, -1, -1, 3]}
    flow = {"flow": [-1, 2, -1, -1], "embedding": [-1, size]}
    return {
        **{flow_model(quality): (frames, flow) for quality in QUALITIES},
        FLOW_BIDIRECTIONAL: (frames, {**flow, "flow_backward": [-1, 2, -1, -1]}),
        EMBED: ({"images": [side, side, 3]}, {"embedding": [size]}),
    }


def _compare(model: str, found: Any, expected: Tensors, data_type: int) -> None:
    by_name = {tensor.name: tensor for tensor in found}
    for name, dims in expected.items():
        tensor = by_name.get(name)
        if tensor is None:
            raise ContractError(f"{model}: there is no tensor {name!r}, only {', '.join(by_name)}")
        if tensor.data_type != data_type or list(tensor.dims) != dims:
            types = model_config_pb2.DataType.Name
            raise ContractError(
                f"{model}: tensor {name!r} is {types(tensor.data_type)} {list(tensor.dims)}, "
                f"expected {types(data_type)} {dims}"
            )
