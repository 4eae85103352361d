"""Flow fields as bytes. Every function takes flow (H, W, 2) float32 px, (dx, dy).

A format without compression is a header and the memory of the array, which is not copied.
"""

from __future__ import annotations

import functools
import io
import math
import struct
import zipfile
from collections.abc import Mapping
from typing import IO, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from mcjepa_server.types import Buffers, FloatArray, Uint8Array

FlowType = Literal["float32", "float16"]
_FLOAT16_MAX = np.float32(65504)
_STRIP = 2**18  # values or pixels at a time, where a whole field would take several times its memory

#: KITTI stores v * 64 + 2**15 in 16 bits: from -512 to just under 512 px, in steps of 1/64.
_KITTI_SCALE = 64.0
_KITTI_OFFSET = 32768.0


def encode_flo(flow: FloatArray) -> Buffers:
    """Middlebury .flo: "PIEH", int32 width, int32 height, then interleaved float32, all little-endian."""
    height, width = flow.shape[:2]
    header = b"PIEH" + struct.pack("<ii", width, height)
    return header, _memory(np.ascontiguousarray(flow, "<f4"))


def encode_kitti(flow: FloatArray) -> tuple[bytes, int]:
    """KITTI 16-bit PNG (u, v, valid), and how many pixels were beyond its range.

    Those pixels hold the nearest value that fits and are marked as not valid.
    """
    stored = np.rint(flow * np.float32(_KITTI_SCALE)) + np.float32(_KITTI_OFFSET)  # the sum first would round
    valid = ((stored >= 0) & (stored <= 65535)).all(axis=-1)
    png = np.empty((*flow.shape[:2], 3), np.uint16)
    clipped = np.clip(stored, 0, 65535)
    png[..., 2] = clipped[..., 0]  # OpenCV writes BGR, the file holds RGB = (u, v, valid)
    png[..., 1] = clipped[..., 1]
    png[..., 0] = valid
    return _png(png), int(valid.size - np.count_nonzero(valid))


def flow_as(flow: FloatArray, dtype: FlowType) -> NDArray[Any]:
    """Flow in the type it is sent in. float16 rounds to 1/2048 of the value, to 1/32 px from 64 px on."""
    if dtype == "float32":
        return flow
    half = np.empty(flow.shape, np.float16)
    source, target = flow.reshape(-1), half.reshape(-1)
    for start in range(0, len(source), _STRIP):
        part = slice(start, start + _STRIP)
        target[part] = np.clip(source[part], -_FLOAT16_MAX, _FLOAT16_MAX)
    return half


def encode_npy(array: NDArray[Any]) -> Buffers:
    """NumPy .npy, version 1.0."""
    array = np.asarray(array, order="C")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return header.getvalue(), _memory(array)


def encode_npz(arrays: Mapping[str, NDArray[Any]]) -> Buffers:
    """NumPy .npz as of ``np.savez``, not compressed: flow hardly shrinks and the time is better spent."""
    buffers = _Written()
    with zipfile.ZipFile(cast("IO[bytes]", buffers), "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                for buffer in encode_npy(array):
                    member.write(buffer)
    return tuple(buffers.parts.values())


class _Written:
    """A file that keeps what is written as it is. It is written over in the parts in which it was written."""

    def __init__(self) -> None:
        self.parts: dict[int, bytes | memoryview] = {}  # by their first byte
        self._position = 0

    def write(self, data: bytes | memoryview) -> int:
        self.parts[self._position] = data
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        self._position = position

    def flush(self) -> None:
        """Do nothing; ZipFile asks for it."""


def encode_png(flow: FloatArray, max_flow: float | None) -> tuple[bytes, float]:
    """Colour PNG, and the length in px drawn at full saturation: ``max_flow``, or the longest vector."""
    scale = max_flow if max_flow is not None else max_magnitude(flow)
    rgb = colour_flow(flow, scale)
    return _png(rgb[..., ::-1]), scale


def max_magnitude(flow: FloatArray) -> float:
    return math.sqrt(np.square(flow).sum(axis=-1).max().item())


def colour_flow(flow: FloatArray, max_flow: float) -> Uint8Array:
    """(H, W, 3) uint8 RGB after Baker et al., "A Database and Evaluation Methodology for Optical Flow", 2007.

    Hue is direction, saturation is length over ``max_flow`` (px); longer vectors are drawn darker.
    """
    rgb = np.empty((*flow.shape[:2], 3), np.uint8)
    rows = max(1, _STRIP // flow.shape[1])
    for top in range(0, len(flow), rows):
        _colour(flow[top : top + rows], max_flow, rgb[top : top + rows])
    return rgb


def _colour(flow: FloatArray, max_flow: float, rgb: Uint8Array) -> None:
    u, v = flow[..., 0], flow[..., 1]
    radius = np.sqrt(u * u + v * v) / np.float32(max(max_flow, 1e-9))
    turn = (np.arctan2(-v, -u) / np.float32(np.pi) + 1) / 2  # 0..1
    table = _fine_wheel()
    index = np.rint(turn * np.float32(len(table) - 1)).astype(np.intp)
    inside = radius <= 1
    gain = np.where(inside, radius, np.float32(0.75))  # 1 - r (1 - c) = r c + (1 - r)
    offset = np.where(inside, 255 * (1 - radius), np.float32(0))
    for channel in range(3):
        rgb[..., channel] = 255 * table[:, channel][index] * gain + offset


@functools.cache
def _fine_wheel() -> FloatArray:
    """The wheel with 64 steps between its colours, once around: looking up is faster than interpolating."""
    wheel = colour_wheel()
    position = np.arange((len(wheel) - 1) * 64 + 1) / 64
    return np.stack(
        [np.interp(position, np.arange(len(wheel)), column) for column in wheel.T], axis=-1
    ).astype(np.float32)


@functools.cache
def colour_wheel() -> FloatArray:
    """(55, 3) RGB in 0..1: red, yellow, green, cyan, blue, magenta and back."""
    # Steps, the channel that stays full, the channel that rises or, in every second segment, falls.
    segments = ((15, 0, 1), (6, 1, 0), (4, 1, 2), (11, 2, 1), (13, 2, 0), (6, 0, 2))
    rows = []
    for turn, (steps, full, moving) in enumerate(segments):
        ramp = np.floor(255 * np.arange(steps) / steps) / 255
        block = np.zeros((steps, 3), np.float32)
        block[:, full] = 1
        block[:, moving] = ramp if turn % 2 == 0 else 1 - ramp
        rows.append(block)
    return np.concatenate(rows)


def _memory(array: NDArray[Any]) -> memoryview:
    """Of an array whose rows follow each other, as bytes."""
    return array.reshape(-1).view(np.uint8).data


def _png(image: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    import cv2  # 11 MB of a process, for few requests

    # Level 1: three times as fast as the default for a tenth more bytes.
    done, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise RuntimeError("OpenCV could not encode a PNG")
    return bytes(data)
