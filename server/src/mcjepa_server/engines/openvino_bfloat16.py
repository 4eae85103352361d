"""An OpenVINO model whose convolutions compute in bfloat16, and nothing else.

Eight binary digits are enough for features, not for coordinates of a thousand pixels, sums of flow or the
exponents of a sharp softmax; OpenVINO's own precision hint lowers those, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # an optional requirement
    import openvino as ov

CONVOLUTIONS = {"Convolution", "GroupConvolution"}
BETWEEN = {"Add", "HSwish", "PRelu"}  # convolutions: bias, residual, activation
DISPLACEMENTS = 3  # a convolution to so few channels gives pixels, or a sum over channels, and stays as it is
TAPS = {"Pad"}  # what reads those of a convolution to pixels, which are then moved and added
SAME_VALUES = {"Convert", "Reshape", "Squeeze", "Unsqueeze"}


def lower_convolutions(model: ov.Model) -> None:
    """Convolutions, and operations of nothing but their outputs and constants, change to bfloat16 in place.

    All else keeps its type: conversions stand where the two meet.
    """
    chosen = _choose(model)
    converted: dict[tuple[str, int], ov.Node] = {}
    for node in chosen.values():
        readers = [
            reader
            for reader in node.output(0).get_target_inputs()
            if reader.get_node().get_friendly_name() not in chosen
            and reader.get_node().get_type_name() != "ShapeOf"
        ]
        for port in node.inputs():
            _lower_input(port, chosen, converted)
        if readers:
            exact = _convert(node.output(0), "f32")
            for reader in readers:
                reader.replace_source_output(exact.output(0))
    model.validate_nodes_and_infer_types()


def _choose(model: ov.Model) -> dict[str, ov.Node]:
    """Operations to be lowered, by name, each after those that it reads."""
    chosen: dict[str, ov.Node] = {}
    for node in model.get_ordered_ops():
        kind, name = node.get_type_name(), node.get_friendly_name()
        sources = [port.get_source_output() for port in node.inputs()]
        data = [source.get_node() for source in sources if not _constant(source.get_node())]
        if kind in CONVOLUTIONS:
            if len(data) == 1 and _gives_features(node):
                chosen[name] = node
        elif kind in BETWEEN and data and all(one.get_friendly_name() in chosen for one in data):
            chosen[name] = node
    return chosen


def _gives_features(convolution: ov.Node) -> bool:
    """Not pixels, nor sums over channels, nor what became of such a sum, spread from one channel to all."""
    readers = {reader.get_node().get_type_name() for reader in convolution.output(0).get_target_inputs()}
    enough = _channels(convolution.input(0)) > 1 and _channels(convolution.output(0)) > DISPLACEMENTS
    return enough and not readers & TAPS


def _channels(port: ov.Input | ov.Output) -> int:
    """Of (B, C, H, W); 0 where they are not fixed."""
    channels = port.get_partial_shape()[1]
    return int(channels.get_length()) if channels.is_static else 0


def _constant(node: ov.Node) -> bool:
    while node.get_type_name() in SAME_VALUES:
        node = node.input(0).get_source_output().get_node()
    return bool(node.get_type_name() == "Constant")


def _lower_input(
    port: ov.Input, chosen: dict[str, ov.Node], converted: dict[tuple[str, int], ov.Node]
) -> None:
    source = port.get_source_output()
    key = source.get_node().get_friendly_name(), source.get_index()
    if key[0] not in chosen:
        if key not in converted:
            converted[key] = _convert(source, "bf16")
        port.replace_source_output(converted[key].output(0))


def _convert(source: ov.Output, kind: str) -> ov.Node:
    from openvino import opset13

    return opset13.convert(source, kind)
