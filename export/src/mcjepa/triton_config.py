"""`config.pbtxt` of the exported models, from a dataclass through Triton's own protobuf.

The `parameters` block carries the contract that the gateway checks before it is ready; values are strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from mcjepa.checkpoint import Card
from mcjepa.config import Config
from mcjepa.files import write_text
from mcjepa.model.joint import MEAN, STD, STRIDE
from mcjepa.onnx_export import FEATURE_LEVEL, Graph
from mcjepa.triton_serving import Serving, apply_serving

MAX_BATCH_SIZE = 8


@dataclass(frozen=True)
class Parameters:
    """The contract of an exported model; `contract_version` changes when a reader has to change."""

    model_version: str
    weights_sha256: str
    embedding_size: str
    embed_image_size: str
    training_summary: str
    license: str
    training_data: str = ""
    evaluation: str = ""
    contract_version: str = "1"
    stride: str = str(STRIDE)
    mean: str = ",".join(map(str, MEAN))
    std: str = ",".join(map(str, STD))


def parameters(
    config: Config, model_version: str, weights_sha256: str, training_summary: str, card: Card
) -> Parameters:
    """The parameters of a checkpoint with this configuration."""
    return Parameters(
        model_version=model_version,
        weights_sha256=weights_sha256,
        embedding_size=str(config.model.content.embedding_dim),
        embed_image_size=str(config.model.content.image_size),
        training_summary=training_summary,
        license=card.license,
        training_data=card.data,
        evaluation=card.evaluation,
    )


def model_config(graph: Graph, config: Config, params: Parameters) -> model_config_pb2.ModelConfig:
    """Triton's configuration of one model; sizes without the batch dimension, -1 where they vary."""
    shapes = _shapes(config)
    message = model_config_pb2.ModelConfig(
        name=graph.name, backend="onnxruntime", max_batch_size=MAX_BATCH_SIZE
    )
    message.input.add(
        name=graph.input_name, data_type=model_config_pb2.TYPE_UINT8, dims=shapes[graph.input_name]
    )
    for name in graph.output_names:
        dims = shapes["embeddings" if graph.input_name == "frames" and name == "embedding" else name]
        message.output.add(name=name, data_type=model_config_pb2.TYPE_FP32, dims=dims)
    for item in fields(params):
        if value := getattr(params, item.name):
            message.parameters[item.name].string_value = value
    apply_serving(message, Serving())
    return message


def write_config(path: Path, message: model_config_pb2.ModelConfig) -> None:
    """Write `config.pbtxt`."""
    write_text(path, text_format.MessageToString(message))


def set_parameters(path: Path, values: Mapping[str, str]) -> None:
    """Set parameters of a `config.pbtxt`, and leave everything else."""
    message = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    for key, value in values.items():
        message.parameters[key].string_value = value
    write_config(path, message)


def read_parameters(path: Path) -> Parameters:
    """The parameters of a `config.pbtxt` that `write_config` wrote."""
    message = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    names = {item.name for item in fields(Parameters)}  # beside them stand options of Triton's backend
    return Parameters(**{key: v.string_value for key, v in message.parameters.items() if key in names})


def _shapes(config: Config) -> dict[str, list[int]]:
    encoder, side = config.model.encoder, config.model.content.image_size
    cell = side // 2 ** (FEATURE_LEVEL + 1)
    return {
        "frames": [-1, -1, -1, 3],  # N, H, W, RGB
        "images": [side, side, 3],
        "flow": [-1, 2, -1, -1],
        "flow_backward": [-1, 2, -1, -1],
        "embedding": [config.model.content.embedding_dim],
        "embeddings": [-1, config.model.content.embedding_dim],  # one a frame
        "features": [encoder.widths[FEATURE_LEVEL], cell, cell],
    }
