"""Where the flow of a video is kept: one Zarr store, or a file for each frame.

Layout of the store, Zarr format 3, one chunk for each frame, Blosc:
    flow           (N - 1, H, W, 2) float16 px, (dx, dy), from one selected frame to the next
    flow_backward  the same from the next frame to this one, where asked for
    occlusion      (N - 1, H, W) bool, where asked for
    frame          (N - 1,) int64, number of the frame in its source
    timestamp      (N - 1,) float64, seconds
float16 keeps 11 significant bits: a component of 10 px to 1/256 px, one of 100 px to 1/32 px.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mcjepa_client._extras import require
from mcjepa_client._files import write_atomic
from mcjepa_client._video.results import FrameResult
from mcjepa_client.flow_io import Flow, decode_flo, decode_kitti, encode_flo, encode_kitti, encode_png

FlowStorage = Literal["zarr", "flo", "kitti", "npy"]

ZARR_FOLDER = "flow.zarr"
_FIELDS = ("flow", "flow_backward", "occlusion")
#: What is in them belongs to a single frame.
FRAME_FOLDERS = tuple(f"{name}/" for name in _FIELDS) + tuple(f"{ZARR_FOLDER}/{name}/c/" for name in _FIELDS)
_GROWTH = 1024  # frames by which an array grows while their number is not known
_LARGEST = np.float32(np.finfo(np.float16).max)  # px
_CONFIG = {"write_empty_chunks": True}  # a chunk that is missing is one that was lost
_FLOW_ATTRIBUTES = {
    "units": "px",
    "scale_factor": 1.0,
    "components": ["dx", "dy"],
    "convention": "(x, y) of a frame is at (x + dx, y + dy) in the next; pixel centres at integers",
}
_DIMENSIONS = ("pair", "y", "x", "component")


class FlowStore(Protocol):
    """Keeps what was computed for the pair that begins at the `number`-th selected frame."""

    def write(self, number: int, result: FrameResult) -> list[str]:
        """Returns the files written, relative to the folder, once they are on the disk."""
        ...

    def read_flow(self, number: int, index: int) -> Flow:
        """The flow of pair `number`, which starts at frame `index` of the source."""
        ...

    def finish(self, indices: NDArray[np.int64], timestamps: NDArray[np.float64]) -> None:
        """All pairs are written; these are the frames they start from."""
        ...


def open_store(folder: Path, storage: FlowStorage) -> FlowStore:
    return ZarrStore(folder) if storage == "zarr" else FileStore(folder, storage)


class ZarrStore:
    """See the module."""

    def __init__(self, folder: Path) -> None:
        self._zarr = require("zarr", "video")
        self._folder = folder
        self._arrays: dict[str, Any] = {}

    def write(self, number: int, result: FrameResult) -> list[str]:
        return [self._write(name, number, array) for name, array in _arrays(result).items()]

    def read_flow(self, number: int, index: int) -> Flow:
        array = self._arrays.get("flow") or self._open("flow")
        return np.asarray(array[number], np.float32)

    def finish(self, indices: NDArray[np.int64], timestamps: NDArray[np.float64]) -> None:
        root = self._folder / ZARR_FOLDER
        group = self._zarr.open_group(str(root), mode="a", attributes={"format": "mcjepa video flow 1"})
        for name in _FIELDS:
            if (root / name / "zarr.json").exists():
                array = self._open(name)
                array.resize((len(indices), *array.shape[1:]))
        for name, values, units in (
            ("frame", indices, None),
            ("timestamp", timestamps, "s"),
        ):
            attributes = {"units": units} if units else {}
            group.create_array(
                name,
                data=values,
                chunks="auto",
                overwrite=True,
                dimension_names=["pair"],
                attributes=attributes,
            )

    def _write(self, name: str, number: int, array: NDArray[Any]) -> str:
        target = self._arrays.get(name)
        if target is None:
            target = self._arrays[name] = self._open_or_create(name, array)
        if number >= target.shape[0]:
            target.resize((number + _GROWTH, *array.shape))
        target[number] = array
        path = f"{ZARR_FOLDER}/{name}/c/" + "/".join(map(str, [number, *[0] * array.ndim]))
        _sync(self._folder / path)
        return path

    def _open(self, name: str) -> Any:
        return self._zarr.open_array(str(self._folder / ZARR_FOLDER / name), mode="r+", config=_CONFIG)

    def _open_or_create(self, name: str, array: NDArray[Any]) -> Any:
        if (self._folder / ZARR_FOLDER / name / "zarr.json").exists():
            return self._open(name)
        return self._zarr.create_array(
            str(self._folder / ZARR_FOLDER / name),
            shape=(_GROWTH, *array.shape),
            chunks=(1, *array.shape),
            dtype=array.dtype,
            compressors=self._zarr.codecs.BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
            dimension_names=_DIMENSIONS[: array.ndim + 1],
            attributes=_FLOW_ATTRIBUTES if array.ndim == 3 else {},
            config=_CONFIG,
        )


def _arrays(result: FrameResult) -> dict[str, NDArray[Any]]:
    """What there is for a pair, as it is stored."""
    fields = {"flow": result.flow, "flow_backward": result.flow_backward}
    arrays: dict[str, NDArray[Any]] = {
        name: np.clip(flow, -_LARGEST, _LARGEST).astype(np.float16)
        for name, flow in fields.items()
        if flow is not None
    }
    if result.occlusion is not None:
        arrays["occlusion"] = result.occlusion
    return arrays


class FileStore:
    """A file for each frame, named after its number in the source: flow/000012.flo, occlusion/000012.png."""

    def __init__(self, folder: Path, storage: FlowStorage) -> None:
        self._folder = folder
        self._suffix = "png" if storage == "kitti" else storage
        self._encode, self._decode = _CODECS[storage]

    def write(self, number: int, result: FrameResult) -> list[str]:
        files = {}
        for name, flow in (("flow", result.flow), ("flow_backward", result.flow_backward)):
            if flow is not None:
                files[self._path(name, result.index)] = self._encode(flow)
        if result.occlusion is not None:
            mask = result.occlusion.astype(np.uint8) * 255
            files[f"occlusion/{result.index:06d}.png"] = encode_png(mask)
        for path, data in files.items():
            (self._folder / path).parent.mkdir(exist_ok=True)
            write_atomic(self._folder / path, data)
        return list(files)

    def read_flow(self, number: int, index: int) -> Flow:
        return self._decode((self._folder / self._path("flow", index)).read_bytes())

    def finish(self, indices: NDArray[np.int64], timestamps: NDArray[np.float64]) -> None:
        """The names of the files say it all."""

    def _path(self, name: str, index: int) -> str:
        return f"{name}/{index:06d}.{self._suffix}"


def _encode_npy(flow: Flow) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, flow, allow_pickle=False)
    return buffer.getvalue()


def _decode_npy(data: bytes) -> Flow:
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False), np.float32)


_CODECS: dict[str, tuple[Callable[[Flow], bytes], Callable[[bytes], Flow]]] = {
    "flo": (encode_flo, decode_flo),
    "kitti": (lambda flow: encode_kitti(flow)[0], lambda data: decode_kitti(data).flow),
    "npy": (_encode_npy, _decode_npy),
}


def _sync(path: Path) -> None:
    """Returns when the file is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
