"""Export to ONNX: the three models of the tensor contract, from one checkpoint.

mcjepa_flow                frames uint8 (B, N, H, W, 3) -> flow (B, N-1, 2, H, W) px, embedding (B, N, D)
mcjepa_flow_bidirectional  the same, and flow_backward (B, N-1, 2, H, W), frame i+1 -> i
mcjepa_embed               images uint8 (B, S, S, 3) -> embedding (B, D), features (B, C, S/8, S/8)

Normalisation is inside the graph; each frame of a clip is encoded once for all its flows. The embedding of a
frame is that of the frame scaled to S x S, so that it can be compared with those of `mcjepa_embed`. H and W
are multiples of 64.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from mcjepa import ops
from mcjepa.model import MCJEPA
from mcjepa.model.joint import STRIDE

OPSET = 18  # newer ones change GridSample, which several runtimes then compute wrongly or on the CPU
FEATURE_LEVEL = 2  # index of stride 8 in the pyramid
MAX_BATCH, MAX_FRAMES, MAX_CELLS = 64, 256, 128  # bounds of the dynamic sizes; cells of 64 px


class FlowModel(nn.Module):
    """The graph of `mcjepa_flow` or, with both directions, of `mcjepa_flow_bidirectional`."""

    def __init__(self, model: MCJEPA, bidirectional: bool) -> None:
        super().__init__()
        self.model = model
        self.bidirectional = bidirectional

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        b, n, h, w, _ = frames.shape
        images = frames.reshape(b * n, h, w, 3).permute(0, 3, 1, 2).float()
        feats = self.model.encode(images)
        small = ops.resize_area(images, self.model.config.content.image_size)
        embedding = self.model.embed(self.model.encode(small)).reshape(b, n, -1)  # (B, N, D)
        order = torch.arange(b * n, device=frames.device).reshape(b, n)  # of the frames in `feats`
        flows = self._flows(self.model.flow_head.project(feats), self.model.refinement.grey(images), order)
        if not self.bidirectional:
            return flows.reshape(b, n - 1, 2, h, w), embedding
        forward, backward = flows.reshape(2, b, n - 1, 2, h, w)
        return forward, backward, embedding

    def _flows(self, maps: list[Tensor], grey: Tensor, order: Tensor) -> Tensor:
        """Projected maps and grey images of all frames, and where those of each clip are (B, N) -> flows.

        (M, 2, H, W) px, M = B * (N-1) or, with both directions, twice that: backward after forward.
        """
        starts, ends = order[:, :-1].flatten(), order[:, 1:].flatten()
        if self.bidirectional:  # one batch: half the nodes, a third less memory than two heads
            starts, ends = torch.cat([starts, ends]), torch.cat([ends, starts])
        maps1, maps2 = ([m.index_select(0, which) for m in maps] for which in (starts, ends))
        grey1, grey2 = (grey.index_select(0, which) for which in (starts, ends))
        return self.model.refinement(grey1, grey2, self.model.flow_head.match(maps1, maps2)[-1])


class EmbedModel(nn.Module):
    """The graph of `mcjepa_embed`."""

    def __init__(self, model: MCJEPA) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        feats = self.model.encode(images.permute(0, 3, 1, 2))
        return self.model.embed(feats), self.model.read(feats)[FEATURE_LEVEL]


@dataclass(frozen=True)
class Graph:
    """A model to export: its module, an example input and the names of its tensors."""

    name: str
    module: nn.Module
    example: Tensor
    input_name: str
    output_names: tuple[str, ...]


def graphs(model: MCJEPA) -> list[Graph]:
    """The three exported models of one checkpoint."""
    frames = torch.zeros(2, 3, 2 * STRIDE, 3 * STRIDE, 3, dtype=torch.uint8)  # no two sizes alike
    side = model.config.content.image_size
    images = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    both = ("flow", "flow_backward", "embedding")
    return [
        Graph("mcjepa_flow", FlowModel(model, False), frames, "frames", ("flow", "embedding")),
        Graph("mcjepa_flow_bidirectional", FlowModel(model, True), frames, "frames", both),
        Graph("mcjepa_embed", EmbedModel(model), images, "images", ("embedding", "features")),
    ]


def export_graph(graph: Graph, path: Path) -> None:
    """Write one ONNX file, atomically. B is dynamic; for frames N, H and W too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the exporter's own use of what torch deprecates
        torch.onnx.export(
            graph.module.eval(),
            (graph.example,),
            str(part),
            dynamo=True,
            opset_version=OPSET,
            input_names=[graph.input_name],
            output_names=list(graph.output_names),
            dynamic_shapes=({**_dynamic_dims(graph)},),
            external_data=False,
            verbose=False,
        )
    onnx.save(without_metadata(onnx.load(part)), part)
    os.replace(part, path)


def without_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` less what the exporter notes at each node: the source code, and where on this machine it was.

    That is a quarter of the file, and nothing that runs the graph reads it.
    """
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
    return model


def _dynamic_dims(graph: Graph) -> dict[int, object]:
    dims: dict[int, object] = {0: Dim("batch", min=1, max=MAX_BATCH)}
    if graph.input_name == "frames":
        dims[1] = Dim("frames", min=2, max=MAX_FRAMES)
        dims[2] = STRIDE * Dim("height_cells", min=1, max=MAX_CELLS)
        dims[3] = STRIDE * Dim("width_cells", min=1, max=MAX_CELLS)
    return dims
