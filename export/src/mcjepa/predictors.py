"""What can be judged: the exported models, a checkpoint, and classical methods.

Flow predictors map two frames, uint8 (H, W, 3) RGB of any size, to float32 (H, W, 2) px.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import torch

from mcjepa.model import MCJEPA
from mcjepa.onnx_export import DETAILS, FEATURE_LEVEL, MAPS, matched_maps
from mcjepa.pictures import pad_to_stride, to_square, to_tensor
from mcjepa.quality import FAST, QUALITIES, Quality, details_name, flow_name, match_name
from mcjepa.triton_config import read_parameters

FlowPredictor = Callable[[np.ndarray, np.ndarray], np.ndarray]


def zero_flow(img1: np.ndarray, img2: np.ndarray) -> np.ndarray:
    """No motion at all."""
    return np.zeros((*img1.shape[:2], 2), np.float32)


def dis_flow(
    img1: np.ndarray, img2: np.ndarray, preset: int = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
) -> np.ndarray:
    """OpenCV's Dense Inverse Search (Kroeger et al., 2016)."""
    dis = cv2.DISOpticalFlow.create(preset)
    flow: np.ndarray = dis.calc(*_grey(img1, img2), None)  # type: ignore[call-overload]
    return flow


def farneback_flow(img1: np.ndarray, img2: np.ndarray) -> np.ndarray:
    """OpenCV's polynomial expansion (Farneback, 2003), five levels."""
    grey1, grey2 = _grey(img1, img2)
    start = np.zeros((*img1.shape[:2], 2), np.float32)
    flow: np.ndarray = cv2.calcOpticalFlowFarneback(grey1, grey2, start, 0.5, 5, 15, 3, 5, 1.1, 0)
    return flow


def _grey(*images: np.ndarray) -> list[np.ndarray]:
    return [cv2.cvtColor(img, cv2.COLOR_RGB2GRAY) for img in images]


#: Classical methods, beside which the models are measured.
CLASSICAL: dict[str, FlowPredictor] = {
    "zero": zero_flow,
    "DIS ultrafast": partial(dis_flow, preset=cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST),
    "DIS medium": dis_flow,
    "Farneback": farneback_flow,
}


class OnnxModels:
    """The exported models of a model repository, run by ONNX Runtime on the CPU."""

    def __init__(self, repository: Path, threads: int = 1) -> None:
        self.repository = repository
        self.qualities = [q for q in QUALITIES if (repository / flow_name(q)).is_dir()]
        self.parameters = read_parameters(repository / "mcjepa_flow" / "config.pbtxt")
        self.image_size = int(self.parameters.embed_image_size)
        self._threads = threads
        self._sessions: dict[str, ort.InferenceSession] = {}

    def flow(self, img1: np.ndarray, img2: np.ndarray, quality: Quality = FAST) -> np.ndarray:
        """A FlowPredictor."""
        h, w = img1.shape[:2]
        frames = np.stack([pad_to_stride(img1), pad_to_stride(img2)])[None]  # (1, 2, H, W, 3)
        flow = self.run(flow_name(quality), frames, "flow")[0, 0]  # (2, H, W) px
        return np.ascontiguousarray(flow[:, :h, :w].transpose(1, 2, 0))

    def embed(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Images (H, W, 3) of any size -> (B, D), not normalised."""
        batch = np.stack([to_square(img, self.image_size) for img in images])
        return self.run("mcjepa_embed", batch, "embedding")

    def features(self, img: np.ndarray) -> np.ndarray:
        """Dense features of an image (H, W, 3) of any size at stride 8: (C, ceil(H / 8), ceil(W / 8))."""
        if "features" not in self._sessions:
            model = onnx.load(self.repository / "mcjepa_embed" / "1" / "model.onnx")
            self._sessions["features"] = self._open(features_at_any_size(model).SerializeToString())
        session = self._sessions["features"]
        padded = pad_to_stride(img)[None]
        feats: np.ndarray = session.run(["features"], {session.get_inputs()[0].name: padded})[0]
        return crop_features(feats[0], img)

    def run(self, model: str, batch: np.ndarray, output: str) -> np.ndarray:
        """One output of one model."""
        session = self._session(model)
        result: np.ndarray = session.run([output], {session.get_inputs()[0].name: batch})[0]
        return result

    def run_parts(self, quality: Quality, clip: np.ndarray, output: str) -> np.ndarray:
        """As run(flow_name(quality), clip, output), of a clip (1, N, H, W, 3), by the parts of that model."""
        *maps, small = self._part("frame").run([*MAPS, "small"], {"frames": clip[0]})
        if output == "embedding":
            (embedding,) = self._session("mcjepa_embed", "embed.onnx").run([output], {"small": small})
            return np.asarray(embedding)[None]
        if quality.detail_passes:
            maps += self._part(details_name(quality)).run([DETAILS], {"frames": clip[0]})
        matched = dict(zip(matched_maps(quality), maps, strict=True))
        starts = {f"start_{name}": m[:-1] for name, m in matched.items()}
        ends = {f"end_{name}": m[1:] for name, m in matched.items()}
        (flow,) = self._part(match_name(quality)).run([output], starts | ends)
        return np.asarray(flow)[None]

    def _part(self, name: str) -> ort.InferenceSession:
        return self._session("mcjepa_flow", f"{name}.onnx")

    def _session(self, model: str, file: str = "model.onnx") -> ort.InferenceSession:
        key = f"{model}/{file}"
        if key not in self._sessions:
            self._sessions[key] = self._open(self.repository / model / "1" / file)
        return self._sessions[key]

    def _open(self, model: Path | bytes) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class TorchModel:
    """A checkpoint, run by torch in float32: the same two calls as OnnxModels."""

    qualities: Sequence[Quality] = QUALITIES

    def __init__(self, model: MCJEPA) -> None:
        self.model = model.eval()
        self.image_size = model.config.content.image_size

    @torch.no_grad()
    def flow(self, img1: np.ndarray, img2: np.ndarray, quality: Quality = FAST) -> np.ndarray:
        """A FlowPredictor."""
        h, w = img1.shape[:2]
        frames = (to_tensor([pad_to_stride(img)]) for img in (img1, img2))
        flow = self.model(*frames, quality).flow[0]
        return np.ascontiguousarray(flow[:, :h, :w].permute(1, 2, 0).numpy())

    @torch.no_grad()
    def embed(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Images (H, W, 3) of any size -> (B, D), not normalised."""
        feats = self.model.encode(to_tensor([to_square(img, self.image_size) for img in images]))
        embedding: np.ndarray = self.model.embed(feats).numpy()
        return embedding

    @torch.no_grad()
    def features(self, img: np.ndarray) -> np.ndarray:
        """As OnnxModels.features."""
        feats = self.model.encode(to_tensor([pad_to_stride(img)]))[FEATURE_LEVEL]
        return crop_features(feats[0].numpy(), img)


def features_at_any_size(model: onnx.ModelProto) -> onnx.ModelProto:
    """`mcjepa_embed` with its output `features` alone, for images (B, H, W, 3) of any multiple of 64.

    The encoder is convolutional, so only the size that the graph declares has to go.
    """
    graph = model.graph
    kept = [output for output in graph.output if output.name == "features"]
    del graph.output[:], graph.value_info[:]
    graph.output.extend(kept)
    for tensor, axes in ((graph.input[0], (1, 2)), (graph.output[0], (2, 3))):
        for axis in axes:
            tensor.type.tensor_type.shape.dim[axis].Clear()
    return model


def crop_features(feats: np.ndarray, img: np.ndarray) -> np.ndarray:
    """Features (C, h, w) of the padded image without the cells that hold nothing of `img` (H, W, 3)."""
    cell = 2 ** (FEATURE_LEVEL + 1)
    return feats[:, : -(-img.shape[0] // cell), : -(-img.shape[1] // cell)]
