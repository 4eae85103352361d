"""The whole models, put together from their parts: torch's exporter takes minutes for each graph.

All frames of a batch of clips go through `frame.onnx`, `embed.onnx` and, in the better qualities,
`details.onnx` as one batch, and all pairs of neighbours through `match.onnx`. What is before, between and
behind them is in ONNX's text format (https://onnx.ai/onnx/repo-docs/Syntax.html); names of the parts begin
with `frame_`, `details_`, `match_` and `embed_`.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir
from onnx import GraphProto, ModelProto, ValueInfoProto, compose, parser
from onnx_ir.passes.common import DeduplicateInitializersPass

from mcjepa.onnx_export import DETAILS, MAPS

_BEFORE = """
    size = Shape <start = 2> (frames)
    flat = Concat <axis = 0> (rest, size)
    frame_frames = Reshape (frames, flat)
"""
_DETAILS = """
    details_frames = Identity (frame_frames)
"""

# Numbers of the frames, (B, N) at first, and of those where flows start and end, (B * (N - 1)).
_BETWEEN = """
    clips = Shape <end = 2> (frames)
    count = ReduceProd <keepdims = 0> (clips)
    numbers = Range (zero, count, one)
    order = Reshape (numbers, clips)
    all_but_last = Slice (order, first, last, second)
    all_but_first = Slice (order, second, end, second)
    here = Reshape (all_but_last, rest)
    next = Reshape (all_but_first, rest)
"""
_FORWARD = """
    starts = Identity (here)
    ends = Identity (next)
"""
# One batch: half the nodes, a third less memory than two heads.
_BOTH = """
    starts = Concat <axis = 0> (here, next)
    ends = Concat <axis = 0> (next, here)
"""
_GATHERED = "\n".join(
    f"match_{end}_{name} = Gather <axis = 0> (frame_{name}, {end}s)"
    for end in ("start", "end")
    for name in MAPS
)
_GATHERED_DETAILS = "\n".join(
    f"match_{end}_{DETAILS} = Gather <axis = 0> (details_{DETAILS}, {end}s)" for end in ("start", "end")
)

_SMALL = """
    embed_small = Identity (frame_small)
"""

_BEHIND = """
    batch_size = Shape <end = 1> (frames)
    flow_size = Shape <start = 1> (match_flow)
    flow_shape = Concat <axis = 0> (batch_size, rest, flow_size)
    embedding_shape = Concat <axis = 0> (clips, rest)
    embedding = Reshape (embed_embedding, embedding_shape)
"""
_FLOW = """
    flow = Reshape (match_flow, flow_shape)
"""
_FLOWS = """
    flows, flows_backward = Split <axis = 0, num_outputs = 2> (match_flow)
    flow = Reshape (flows, flow_shape)
    flow_backward = Reshape (flows_backward, flow_shape)
"""


_IMAGES = """
    planes = Transpose <perm = [0, 3, 1, 2]> (images)
    embed_small = Cast <to = 1> (planes)
"""
_EMBEDDED = """
    embedding = Identity (embed_embedding)
    features = Identity (embed_features)
"""


def whole_flow(
    frame: ModelProto,
    match: ModelProto,
    embed: ModelProto,
    details: ModelProto | None = None,
    bidirectional: bool = False,
) -> ModelProto:
    """`mcjepa_flow`, one of a quality (with `details`), or `mcjepa_flow_bidirectional`, from its parts."""
    (size,) = _sizes(embed.graph.output[0])[1:]
    flow = "float[batch, pairs, 2, height, width]"
    backward = f"{flow} flow_backward," if bidirectional else ""
    signature = f"""
        mcjepa_flow (uint8[batch, frames, height, width, 3] frames)
        => ({flow} flow, {backward} float[batch, frames, {size}] embedding)
        <int64 zero = {{0}}, int64 one = {{1}}, int64[1] rest = {{-1}},
         int64[1] first = {{0}}, int64[1] second = {{1}}, int64[1] last = {{-1}}, int64[1] end = {{{2**31}}}>
    """
    between = _BETWEEN + (_BOTH if bidirectional else _FORWARD) + _GATHERED
    behind = _BEHIND + (_FLOWS if bidirectional else _FLOW)
    before: list[str | tuple[str, ModelProto]] = [_BEFORE, ("frame_", frame)]
    if details is not None:
        before += [_DETAILS, ("details_", details)]
        between += "\n" + _GATHERED_DETAILS
    return _put_together(signature, *before, between, ("match_", match), _SMALL, ("embed_", embed), behind)


def whole_embed(embed: ModelProto) -> ModelProto:
    """`mcjepa_embed`, which takes images as they are decoded."""
    _, channels, side, _ = _sizes(embed.graph.input[0])
    outputs = ", ".join(
        f"float[{','.join(map(str, ['batch', *_sizes(output)[1:]]))}] {output.name}"
        for output in embed.graph.output
    )
    signature = f"mcjepa_embed (uint8[batch, {side}, {side}, {channels}] images) => ({outputs})"
    return _put_together(signature, _IMAGES, ("embed_", embed), _EMBEDDED)


def _put_together(signature: str, *steps: str | tuple[str, ModelProto]) -> ModelProto:
    """A model of nodes in ONNX's text format and of parts, whose names get a prefix."""
    graph = parser.parse_graph(f"{signature} {{}}")
    whole = ModelProto()
    for step in steps:
        if isinstance(step, str):
            graph.node.extend(parser.parse_graph(f"nodes () => () {{ {step} }}").node)
            continue
        prefix, model = step
        part = compose.add_prefix_graph(model.graph, prefix)
        graph.node.extend(part.node)
        graph.initializer.extend(part.initializer)
        graph.value_info.extend(_shapes(part, prefix))
        whole.CopyFrom(model)  # versions
    whole.graph.CopyFrom(graph)
    return _share_weights(whole)


def _share_weights(model: ModelProto) -> ModelProto:
    """One of each of the tensors that are alike: two parts have the encoder."""
    shared = onnx_ir.from_proto(model)
    DeduplicateInitializersPass(size_limit=model.ByteSize())(shared)
    return onnx_ir.to_proto(shared)


def _shapes(part: GraphProto, prefix: str) -> Sequence[ValueInfoProto]:
    """Known shapes within a part, which runtimes optimise by; sizes that vary get names of their own."""
    for value in part.value_info:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = prefix + dim.dim_param
    return part.value_info


def _sizes(value: ValueInfoProto) -> list[int]:
    """0 where one varies."""
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]
