"""Flow fields as bytes. Every function takes flow (H, W, 2) float32 px, (dx, dy).

A format without compression is a header and the memory of the array, which is not copied.
"""

from __future__ import annotations

import functools
import io
import math
import struct
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mcjepa_server.engine import FloatArray, Uint8Array

FlowType = Literal["float32", "float16"]
Buffers = tuple[bytes | memoryview, ...]  # one after the other; memory of arrays, not copied
_FLOAT16_MAX = np.float32(65504)

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
    stored = np.rint(flow * np.float32(_KITTI_SCALE) + np.float32(_KITTI_OFFSET))
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
    return np.clip(flow, -_FLOAT16_MAX, _FLOAT16_MAX).astype(np.float16)


def encode_npy(array: NDArray[Any]) -> Buffers:
    """NumPy .npy, version 1.0."""
    array = np.ascontiguousarray(array)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return header.getvalue(), _memory(array)


def encode_npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """NumPy .npz, not compressed: flow hardly shrinks and the time is better spent."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


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
    u, v = flow[..., 0], flow[..., 1]
    radius = np.sqrt(u * u + v * v) / np.float32(max(max_flow, 1e-9))
    turn = (np.arctan2(-v, -u) / np.float32(np.pi) + 1) / 2  # 0..1
    table = _fine_wheel()
    index = np.rint(turn * np.float32(len(table) - 1)).astype(np.intp)
    inside = radius <= 1
    gain = np.where(inside, radius, np.float32(0.75))  # 1 - r (1 - c) = r c + (1 - r)
    offset = np.where(inside, 255 * (1 - radius), np.float32(0))
    rgb = np.empty((*flow.shape[:2], 3), np.uint8)
    for channel in range(3):
        rgb[..., channel] = 255 * table[:, channel][index] * gain + offset
    return rgb


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
    return array.data.cast("B")


def _png(image: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    import cv2  # 11 MB of a process, for few requests

    # Level 1: three times as fast as the default for a tenth more bytes.
    done, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise RuntimeError("OpenCV could not encode a PNG")
    return bytes(data)
