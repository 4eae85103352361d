"""Optical flow files: Middlebury `.flo` and KITTI 16-bit PNG.

Convention: flow is float32 (H, W, 2) in pixels, (dx, dy); the point at (x, y) of frame 1 lies at
(x + dx, y + dy) in frame 2; pixel centres are at integers. A pixel is *unknown* when a component is not
finite or exceeds 1e9 in magnitude.

Formats:
    .flo   Baker et al., "A Database and Evaluation Methodology for Optical Flow" (2007): the float32 tag
           202021.25 (bytes "PIEH"), int32 width, int32 height, then dx, dy interleaved, row by row,
           little-endian. Loses nothing.
    KITTI  Menze and Geiger, "Object Scene Flow for Autonomous Vehicles" (2015): 16-bit RGB PNG,
           R = 64 dx + 2^15, G = 64 dy + 2^15, B = 1 where valid. Steps of 1/64 px, range -512 to 511.98 px.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcjepa_client._errors import InputError
from mcjepa_client._files import PathLike, read_file, write_atomic
from mcjepa_client._png import decode_rgb16, encode_png as encode_png

Flow = NDArray[np.float32]
Mask = NDArray[np.bool_]

UNKNOWN_THRESHOLD = 1e9  # a larger magnitude means unknown (Middlebury)
UNKNOWN_VALUE = 1e10  # what is written for an unknown pixel (Middlebury)

_FLO_TAG = b"PIEH"
_FLO_HEADER = 12  # bytes: tag, width, height
_KITTI_SCALE = 64.0
_KITTI_ZERO = 32768.0


class KittiFlow(NamedTuple):
    """A KITTI flow file: `flow` (H, W, 2), zero where not `valid` (H, W)."""

    flow: Flow
    valid: Mask


def check_flow(flow: object) -> Flow:
    """`flow` as float32 (H, W, 2). Raises InputError for any other shape or a dtype that is not real."""
    array = np.asarray(flow)
    if array.ndim != 3 or array.shape[2] != 2 or 0 in array.shape:
        raise InputError(f"flow: expected shape (H, W, 2), got {array.shape}")
    if array.dtype.kind not in "fiu":
        raise InputError(f"flow: expected real numbers, got dtype {array.dtype}")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, that is: unknown
        return np.ascontiguousarray(array, dtype=np.float32)


def known_pixels(flow: Flow) -> Mask:
    """(H, W) True where both components are finite and at most 1e9 in magnitude."""
    with np.errstate(invalid="ignore"):
        known: Mask = np.all(np.abs(flow) <= UNKNOWN_THRESHOLD, axis=2)
    return known


def encode_flo(flow: Flow) -> bytes:
    """The bytes of a `.flo` file. Unknown pixels become 1e10, the others are kept bit for bit."""
    flow = check_flow(flow)
    height, width = flow.shape[:2]
    data = np.where(known_pixels(flow)[..., None], flow, np.float32(UNKNOWN_VALUE))
    header = _FLO_TAG + np.array([width, height], "<i4").tobytes()
    return header + data.astype("<f4").tobytes()


def decode_flo(data: bytes) -> Flow:
    """The flow (H, W, 2) of a `.flo` file, unknown pixels as stored (see `known_pixels`).

    Raises InputError when the tag, the size or the length is wrong: a truncated file never gives flow.
    """
    if len(data) < _FLO_HEADER or data[:4] != _FLO_TAG:
        raise InputError("not a .flo file: it does not start with the tag 'PIEH'")
    width, height = (int(n) for n in np.frombuffer(data, "<i4", count=2, offset=4))
    if width < 1 or height < 1:
        raise InputError(f".flo file: impossible size {width}x{height}")
    expected = _FLO_HEADER + 8 * width * height
    if len(data) != expected:
        raise InputError(f".flo file of {width}x{height}: expected {expected} bytes, got {len(data)}")
    values = np.frombuffer(data, "<f4", offset=_FLO_HEADER)
    return values.reshape(height, width, 2).astype(np.float32)


def encode_kitti(flow: Flow, valid: Mask | None = None) -> tuple[bytes, int]:
    """The bytes of a KITTI PNG, and how many pixels were beyond its range of about +-512 px.

    Those are stored as invalid, and so are, not counted, pixels that are unknown or not `valid` (H, W).
    """
    flow = check_flow(flow)
    mask = known_pixels(flow)
    if valid is not None:
        if np.shape(valid) != mask.shape:
            raise InputError(f"valid: expected shape {mask.shape}, got {np.shape(valid)}")
        mask = mask & np.asarray(valid, dtype=bool)
    steps = np.round(np.where(mask[..., None], flow, 0).astype(np.float64) * _KITTI_SCALE) + _KITTI_ZERO
    fits = np.all((steps >= 0) & (steps <= 65535), axis=2)
    stored = np.where((mask & fits)[..., None], steps, 0)
    rgb = np.dstack([stored, mask & fits]).astype(np.uint16)
    return encode_png(rgb), int(np.count_nonzero(~fits))


def decode_kitti(data: bytes) -> KittiFlow:
    """Return the flow and the valid mask of a KITTI PNG.

    Raises InputError when it is not a 16-bit RGB PNG, is damaged, or has fewer bytes than its size needs at
    the least.
    """
    try:
        image = decode_rgb16(data)  # R, G, B
    except ValueError as error:
        raise InputError(f"not a KITTI flow file: {error}") from error
    valid: Mask = image[..., 2] > 0
    flow = (image[..., :2].astype(np.float32) - np.float32(_KITTI_ZERO)) / np.float32(_KITTI_SCALE)
    flow[~valid] = 0
    return KittiFlow(flow, valid)


def read_flo(path: PathLike) -> Flow:
    """Read a `.flo` file: see `decode_flo`."""
    return decode_flo(read_file(path, "path"))


def write_flo(path: PathLike, flow: Flow) -> None:
    """Write a `.flo` file atomically: see `encode_flo`."""
    write_atomic(path, encode_flo(flow))


def read_kitti(path: PathLike) -> KittiFlow:
    """Read a KITTI flow PNG: see `decode_kitti`."""
    return decode_kitti(read_file(path, "path"))


def write_kitti(path: PathLike, flow: Flow, valid: Mask | None = None) -> int:
    """Write a KITTI flow PNG atomically and return the pixels beyond its range: see `encode_kitti`."""
    data, clipped = encode_kitti(flow, valid)
    write_atomic(path, data)
    return clipped
