"""What the calls return: NumPy arrays with names, that can save themselves."""

import io
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from mcjepa_client._errors import InputError, McjepaError
from mcjepa_client._files import PathLike, write_atomic
from mcjepa_client._warp import warp
from mcjepa_client.flow_io import Flow, Mask, encode_flo, encode_kitti, encode_png
from mcjepa_client.flow_viz import RGB, flow_picture, flow_to_color

Direction = Literal["forward", "backward", "both"]
Quality = Literal["fast", "balanced", "best"]
FlowFormat = Literal["flo", "png", "npy", "npz", "kitti"]
EmbedFormat = Literal["npy", "npz", "json"]
Embeddings = NDArray[np.float32]


@dataclass(frozen=True)
class FlowResult:
    """Optical flow between two frames.

    Convention: pixels, (dx, dy), centres at integers. `flow` says for each pixel (x, y) of frame 1 that its
    point lies at (x + dx, y + dy) in frame 2; with direction "backward" it runs from frame 2 to frame 1.

    Attributes:
        flow: (H, W, 2) float32, in the size of the frames as sent.
        direction: which way `flow` runs: "forward", or "backward" when only that was asked for.
        backward: (H, W, 2) float32 from frame 2 to frame 1 when direction was "both", else None.
        occlusion: (H, W) bool when asked for, else None. True where the pixel that `flow` starts from has no
            counterpart in the other frame.
        meta: what the server says about the computation (model, sizes), as it sent it.
        request_id: what to quote to whoever runs the server.
    """

    flow: Flow
    direction: Literal["forward", "backward"] = "forward"
    backward: Flow | None = None
    occlusion: Mask | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    request_id: str | None = None

    def to_image(self, max_flow: float | None = None) -> RGB:
        """`flow` in the Middlebury colours, (H, W, 3) uint8 RGB: see `flow_viz.flow_to_color`."""
        return flow_to_color(self.flow, max_flow)

    def warp(self, image: NDArray[Any] | Image) -> NDArray[np.uint8]:
        """Pull the frame that `flow` points into back to where it starts from: see `mcjepa_client.warp`.

        Given frame 2 (frame 1 for a backward result) it returns frame 1 (2) as that frame's pixels show it.
        """
        return warp(image, self.flow)

    def save(
        self, path: PathLike, *, format: FlowFormat | None = None, max_flow: float | None = None
    ) -> Path:
        """Write the result to a file, atomically.

        Args:
            path: where to; the extension chooses the format unless `format` is given.
            format: "flo" (Middlebury) and "npy" hold `flow` bit for bit; "npz" all arrays and meta; "png" a
                colour picture with legend; "kitti" a 16-bit PNG (steps of 1/64 px, at most about 512 px;
                a UserWarning says how many pixels were beyond that and are stored as invalid).
            max_flow: for "png", the length in px of the wheel's rim; None takes the longest vector.

        Raises:
            InputError: unknown extension or format.
            FileError: the file cannot be written, for instance because the folder is missing.
        """
        return write_atomic(path, self._encode(choose_flow_format(path, format), max_flow))

    def _encode(self, format: FlowFormat, max_flow: float | None) -> bytes:
        match format:
            case "flo":
                return encode_flo(self.flow)
            case "png":
                return encode_png(flow_picture(self.flow, max_flow))
            case "npy":
                return _npy(self.flow)
            case "npz":
                return _npz(self.meta, flow=self.flow, flow_backward=self.backward, occlusion=self.occlusion)
            case "kitti":
                data, clipped = encode_kitti(self.flow)
                if clipped:
                    warnings.warn(
                        f"{clipped} pixels beyond KITTI's range of 512 px are stored as invalid", stacklevel=3
                    )
                return data


@dataclass(frozen=True)
class EmbedResult:
    """Embeddings of images.

    Attributes:
        embeddings: (N, D) float32, one row of length 1 per image, in the order they were given.
        model: name of the model that made them; compare only embeddings of the same model.
        usage: the server's accounting, summed over the requests that were needed.
        indices: (N,) int64, the place of each row's image among those given: 0 to N - 1 unless some were
            skipped.
        failed: with on_error="skip", an error for each image that has no row, with its `index` and `path`.
    """

    embeddings: Embeddings
    model: str = ""
    usage: dict[str, int] = field(default_factory=dict)
    indices: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    failed: tuple[McjepaError, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.indices):
            object.__setattr__(self, "indices", np.arange(len(self.embeddings)))

    def __len__(self) -> int:
        return len(self.embeddings)

    def similarity(self) -> NDArray[np.float32]:
        """Cosine of each image with each other, (N, N) in [-1, 1]."""
        return cosine_similarity(self.embeddings)

    def save(self, path: PathLike) -> Path:
        """Write to `.npy` (the array), `.npz` (`embeddings`, `indices` and `meta`) or `.json`, atomically.

        Raises InputError for another extension and FileError when the file cannot be written.
        """
        return write_atomic(path, self._encode(choose_embed_format(path)))

    def _encode(self, format: EmbedFormat) -> bytes:
        meta = {"model": self.model, "usage": self.usage}
        match format:
            case "npy":
                return _npy(self.embeddings)
            case "npz":
                return _npz(meta, embeddings=self.embeddings, indices=self.indices)
            case "json":
                rows = {"indices": self.indices.tolist(), "embeddings": self.embeddings.tolist()}
                return json.dumps({**meta, **rows}).encode()


@dataclass(frozen=True)
class AnalyzeResult:
    """Flow and embeddings of N consecutive frames, out of one encoder pass per frame.

    Attributes:
        flows: (N-1, H, W, 2) float32 px, (dx, dy), frame i to frame i+1.
        embeddings: (N, D) float32 of length 1, one per frame.
        backward: (N-1, H, W, 2) float32, frame i+1 to frame i, or None.
        occlusion: (N-1, H, W) bool, True where a pixel of frame i has no counterpart in frame i+1, or None.
        meta: what the server says about the computation.
        request_id: what to quote to whoever runs the server.
    """

    flows: NDArray[np.float32]
    embeddings: Embeddings
    backward: NDArray[np.float32] | None = None
    occlusion: Mask | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    request_id: str | None = None

    def __len__(self) -> int:
        """The number of frame pairs, N-1."""
        return len(self.flows)

    def __getitem__(self, index: int) -> FlowResult:
        """The pair of frames `index` and `index + 1` (counted over pairs when negative)."""
        return FlowResult(
            flow=self.flows[index],
            backward=None if self.backward is None else self.backward[index],
            occlusion=None if self.occlusion is None else self.occlusion[index],
            meta=self.meta,
            request_id=self.request_id,
        )

    def __iter__(self) -> Iterator[FlowResult]:
        """The pairs in order."""
        return (self[index] for index in range(len(self)))

    def similarity(self) -> NDArray[np.float32]:
        """Cosine of each frame with each other, (N, N) in [-1, 1]."""
        return cosine_similarity(self.embeddings)

    def save(self, path: PathLike) -> Path:
        """Write everything to one `.npz`, atomically: flows, flows_backward, occlusion, embeddings, meta.

        Raises InputError for another extension and FileError when the file cannot be written.
        """
        if _extension(path) != "npz":
            raise InputError(f"{path}: an analysis is saved as .npz")
        arrays = {"flows_backward": self.backward, "occlusion": self.occlusion}
        return write_atomic(path, _npz(self.meta, flows=self.flows, embeddings=self.embeddings, **arrays))


def cosine_similarity(embeddings: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Cosines between the rows of (N, D), as (N, N) in [-1, 1]. A row of zeros has cosine 0 with all."""
    rows = embeddings.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.where(lengths > 0, lengths, 1)
    return np.clip(unit @ unit.T, -1, 1).astype(np.float32)


def _extension(path: PathLike) -> str:
    return Path(path).suffix.lower().removeprefix(".")


def choose_flow_format(path: PathLike, format: FlowFormat | None) -> FlowFormat:
    """`format` when given, else what the extension says ("kitti" has none: it is a .png)."""
    wanted = format or _extension(path)
    for known in get_args(FlowFormat):
        if wanted == known:
            return known  # type: ignore[no-any-return]
    raise InputError(
        f"{path}: cannot save flow as {wanted!r}; use .flo, .png (colours), .npy or .npz, or format='kitti'"
    )


def choose_embed_format(path: PathLike) -> EmbedFormat:
    """The format that the extension names."""
    wanted = _extension(path)
    for known in get_args(EmbedFormat):
        if wanted == known:
            return known  # type: ignore[no-any-return]
    raise InputError(f"{path}: embeddings are saved as .npy, .npz or .json, not {wanted!r}")


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _npz(meta: dict[str, Any], **arrays: NDArray[Any] | None) -> bytes:
    """An archive of the arrays that are there, and of `meta` as JSON text (no pickle)."""
    buffer = io.BytesIO()
    present = {name: array for name, array in arrays.items() if array is not None}
    present["meta"] = np.array(json.dumps(meta))
    # allow_pickle=False would be an array of that name before NumPy 2.1; none of these needs a pickle.
    np.savez_compressed(buffer, **present)  # type: ignore[arg-type]
    return buffer.getvalue()
