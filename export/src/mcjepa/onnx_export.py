"""Export to ONNX: the models of the tensor contract, from one checkpoint.

mcjepa_flow                frames uint8 (B, N, H, W, 3) -> flow (B, N-1, 2, H, W) px, embedding (B, N, D)
mcjepa_flow_bidirectional  the same, and flow_backward (B, N-1, 2, H, W), frame i+1 -> i
mcjepa_flow_QUALITY        as mcjepa_flow, of each quality above `fast`
mcjepa_embed               images uint8 (B, S, S, 3) -> embedding (B, D), features (B, C, S/8, S/8)

Normalisation is inside the graph; each frame of a clip is encoded once for all its flows. The embedding of a
frame is that of the frame scaled to S x S, so that it can be compared with those of `mcjepa_embed`. H and W
are multiples of 64.

All are there in parts, too, for who wants to encode a frame now and match it later, or twice:

frame.onnx          frames uint8 (B, H, W, 3) -> map_8, map_16, map_32, grey, small (B, 3, S, S)
match.onnx          the first four of the frame where the flow starts (start_) and of that where it ends
                    (end_) -> flow (B, 2, H, W)
details_QUALITY.onnx  frames uint8 (B, H, W, 3) -> details, what a quality above `fast` matches besides
match_QUALITY.onnx  as match.onnx, with the details of both
embed.onnx          small -> embedding (B, D), features
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from mcjepa import ops
from mcjepa.model import MCJEPA
from mcjepa.model.joint import STRIDE
from mcjepa.quality import FAST, QUALITIES, Quality, details_name, flow_name, match_name

OPSET = 18  # newer ones change GridSample, which several runtimes then compute wrongly or on the CPU
MAPS = ("map_8", "map_16", "map_32", "grey")  # what is matched of a frame; the number is the stride
DETAILS = "details"  # what the better qualities match besides
FEATURE_LEVEL = 2  # index of stride 8 in the pyramid
MAX_BATCH, MAX_CELLS = 64, 128  # bounds of the dynamic sizes; cells of 64 px
EXAMPLE_CELLS = (2, 3)  # down and across, of the examples


class FrameModel(nn.Module):
    """What is needed of a frame, whatever it is matched with."""

    def __init__(self, model: MCJEPA) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """(B, H, W, 3) uint8 -> projected maps of strides 8, 16 and 32, grey (B, 1, H/2, W/2), small."""
        images = frames.permute(0, 3, 1, 2).float()
        maps = self.model.flow_head.project(self.model.encode(images))
        small = ops.resize_area(images, self.model.config.content.image_size)
        return *maps, self.model.refinement.grey(images), small


class DetailsModel(nn.Module):
    """What the better qualities need of a frame besides."""

    def __init__(self, model: MCJEPA, scale: float) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, frames: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 -> projected map of stride 8 of the enlarged frames."""
        return self.model.details(frames.permute(0, 3, 1, 2), self.scale)


class MatchModel(nn.Module):
    """What is matched of two frames, named by `matched_maps` -> flow (B, 2, H, W) px."""

    def __init__(self, model: MCJEPA, quality: Quality) -> None:
        super().__init__()
        self.model, self.quality = model, quality

    def forward(self, *inputs: Tensor) -> Tensor:
        names, half = matched_maps(self.quality), len(inputs) // 2
        one, two = (dict(zip(names, of_frame, strict=True)) for of_frame in (inputs[:half], inputs[half:]))
        grey1, grey2 = one.pop("grey"), two.pop("grey")
        levels = self.model.flow_head.match(list(one.values()), list(two.values()), self.quality)
        return self.model.refinement(grey1, grey2, levels[-1], self.quality.detail_scale)


class SmallModel(nn.Module):
    """Images of the embedding's size (B, 3, S, S), 0 .. 255 -> embedding, features (B, C, S/8, S/8)."""

    def __init__(self, model: MCJEPA) -> None:
        super().__init__()
        self.model = model

    def forward(self, small: Tensor) -> tuple[Tensor, Tensor]:
        feats = self.model.encode(small)
        return self.model.embed(feats), self.model.read(feats)[FEATURE_LEVEL]


class FlowModel(nn.Module):
    """The graph of `mcjepa_flow`, of one with a quality, or of `mcjepa_flow_bidirectional`."""

    def __init__(self, model: MCJEPA, bidirectional: bool = False, quality: Quality = FAST) -> None:
        super().__init__()
        self.frame, self.match, self.small = FrameModel(model), MatchModel(model, quality), SmallModel(model)
        self.details = DetailsModel(model, quality.detail_scale) if quality.detail_passes else None
        self.bidirectional = bidirectional

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        b, n, h, w, _ = frames.shape
        flat = frames.reshape(b * n, h, w, 3)
        *maps, small = self.frame(flat)
        if self.details is not None:
            maps.append(self.details(flat))
        embedding = self.small(small)[0].reshape(b, n, -1)  # (B, N, D)
        order = torch.arange(b * n, device=frames.device).reshape(b, n)  # of the frames in `maps`
        starts, ends = order[:, :-1].flatten(), order[:, 1:].flatten()
        if self.bidirectional:  # one batch: half the nodes, a third less memory than two heads
            starts, ends = torch.cat([starts, ends]), torch.cat([ends, starts])
        flows = self.match(*(m.index_select(0, which) for which in (starts, ends) for m in maps))
        if not self.bidirectional:
            return flows.reshape(b, n - 1, 2, h, w), embedding
        forward, backward = flows.reshape(2, b, n - 1, 2, h, w)
        return forward, backward, embedding


class EmbedModel(nn.Module):
    """The graph of `mcjepa_embed`."""

    def __init__(self, model: MCJEPA) -> None:
        super().__init__()
        self.small = SmallModel(model)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        embedding, features = self.small(images.permute(0, 3, 1, 2).float())
        return embedding, features


@dataclass(frozen=True)
class Graph:
    """A model of the contract: its name, what it computes, its input and its outputs."""

    name: str
    module: nn.Module
    input_name: str
    output_names: tuple[str, ...]


def graphs(model: MCJEPA) -> list[Graph]:
    """The exported models of one checkpoint."""
    one, both = ("flow", "embedding"), ("flow", "flow_backward", "embedding")
    return [
        *(Graph(flow_name(q), FlowModel(model, quality=q), "frames", one) for q in QUALITIES),
        Graph("mcjepa_flow_bidirectional", FlowModel(model, bidirectional=True), "frames", both),
        Graph("mcjepa_embed", EmbedModel(model), "images", ("embedding", "features")),
    ]


def matched_maps(quality: Quality) -> tuple[str, ...]:
    """Return the names of what is matched of a frame in a quality."""
    return (*MAPS, DETAILS) if quality.detail_passes else MAPS


@dataclass(frozen=True)
class Part:
    """What models are made of, as torch exports it: its name, module, examples of its inputs, its outputs."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    output_names: tuple[str, ...]


def parts(model: MCJEPA) -> list[Part]:
    """Return the parts: of a frame, its details, two frames in each quality, a small image."""
    frame = FrameModel(model).eval()
    details = {q: DetailsModel(model, q.detail_scale).eval() for q in QUALITIES if q.detail_passes}
    height, width = (STRIDE * cells for cells in EXAMPLE_CELLS)
    frames = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    with torch.no_grad():
        *maps, small = frame(frames)
        found = dict(zip(MAPS, maps, strict=True))
        finer = {q: {DETAILS: module(frames)} for q, module in details.items()}
    # No tensor stands for two inputs, or the exporter would make one of them.
    pairs = {
        q: {
            f"{end}_{name}": m.clone()
            for end in ("start", "end")
            for name, m in (found | finer.get(q, {})).items()
        }
        for q in QUALITIES
    }
    return [
        Part("frame", frame, {"frames": frames}, (*MAPS, "small")),
        *(Part(details_name(q), module, {"frames": frames}, (DETAILS,)) for q, module in details.items()),
        *(Part(match_name(q), MatchModel(model, q), pair, ("flow",)) for q, pair in pairs.items()),
        Part("embed", SmallModel(model), {"small": small}, ("embedding", "features")),
    ]


def export_part(part: Part) -> onnx.ModelProto:
    """As ONNX. B is dynamic; H and W too, but those of `small`."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the exporter's own use of what torch deprecates
        warnings.filterwarnings("ignore", "# The axis name", UserWarning)  # sizes that inputs share
        program = torch.onnx.export(
            part.module.eval(),
            tuple(part.inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(part.inputs),
            output_names=list(part.output_names),
            dynamic_shapes=_dynamic_shapes(part),
            verbose=False,
        )
    assert program is not None, "written to no file"
    return without_metadata(program.model_proto)


def without_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` less what the exporter notes at each node: the source code, and where on this machine it was.

    That is a quarter of the file, and nothing that runs the graph reads it.
    """
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
    return model


def _dynamic_shapes(part: Part) -> tuple[object, ...]:
    """The sizes of each input that may vary, by axis."""
    batch = Dim("batch", min=1, max=MAX_BATCH)
    height, width = (Dim(f"{side}_cells", min=1, max=MAX_CELLS) for side in ("height", "width"))

    def sizes(name: str) -> dict[int, object]:
        if name == "small":
            return {0: batch}
        if name == "frames":
            return {0: batch, 1: STRIDE * height, 2: STRIDE * width}
        cell = part.inputs[name].shape[2] // EXAMPLE_CELLS[0]
        return {0: batch, 2: cell * height, 3: cell * width}

    shapes = tuple(map(sizes, part.inputs))
    return (shapes,) if isinstance(part.module, MatchModel) else shapes  # its arguments are one, *inputs
