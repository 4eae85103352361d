"""Flow files: Middlebury .flo (also FlyingChairs and Sintel) and KITTI 16-bit PNG.

Convention: flow is float32 (H, W, 2), px, (dx, dy), and 0 where it is not valid; `valid` is bool (H, W).
"""

import struct
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from mcjepa.files import write_atomic

Kind = Literal["flo", "kitti_png"]

FLO_MAGIC = b"PIEH"  # 202021.25 as a little-endian float32
FLO_UNKNOWN = 1e9  # a component beyond this says that the flow is not known here
MAX_PIXELS = 1 << 26
KITTI_SCALE, KITTI_ZERO = 64.0, 32768.0  # 16-bit value = 64 * px + 32768


def read_flow(path: Path, kind: Kind | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read a flow file: (flow float32 (H, W, 2) px, valid bool (H, W)).

    `kind` None goes by the suffix: .flo or .png. Raises OSError where the file cannot be read, ValueError
    naming the file where it is not what it should be.
    """
    readers = {"flo": _parse_flo, "kitti_png": _parse_kitti}
    kind = kind or _kind_of(Path(path))
    if kind not in readers:
        raise ValueError(f"{path}: kind {kind!r} is not one of {', '.join(readers)}")
    try:
        flow, valid = readers[kind](Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return np.where(valid[..., None], flow, np.float32(0)), valid


def write_flo(path: Path, flow: np.ndarray, valid: np.ndarray | None = None) -> None:
    """Write flow (H, W, 2) px as .flo, atomically; pixels that are not `valid` (H, W) are marked unknown."""
    height, width = _checked_size(flow)
    known = np.ones((height, width), bool) if valid is None else valid
    values = np.where(known[..., None], flow, 10 * FLO_UNKNOWN).astype("<f4")
    write_atomic(Path(path), FLO_MAGIC + struct.pack("<ii", width, height) + values.tobytes())


def write_kitti(path: Path, flow: np.ndarray, valid: np.ndarray | None = None) -> None:
    """Write flow (H, W, 2) px as a KITTI PNG, atomically, rounded to 1/64 px.

    Raises ValueError where a valid component lies outside -512 .. 511.98 px, which the format cannot hold.
    """
    height, width = _checked_size(flow)
    known = np.ones((height, width), bool) if valid is None else valid
    coded = np.rint(np.where(known[..., None], flow, 0).astype(np.float64) * KITTI_SCALE + KITTI_ZERO)
    if not ((coded >= 0) & (coded <= 65535)).all():
        raise ValueError(f"{path}: KITTI holds -512 to 511.98 px, this has {np.abs(flow[known]).max():.2f}")
    bgr = np.dstack([known, coded[..., 1], coded[..., 0]]).astype(np.uint16)
    write_atomic(Path(path), cv2.imencode(".png", bgr)[1].tobytes())


def _kind_of(path: Path) -> Kind:
    kinds: dict[str, Kind] = {".flo": "flo", ".png": "kitti_png"}
    if path.suffix.lower() not in kinds:
        raise ValueError(f"{path}: expected a .flo or a KITTI .png file")
    return kinds[path.suffix.lower()]


def _parse_flo(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    if len(data) < 12:
        raise ValueError(f"truncated: {len(data)} bytes, the header alone takes 12")
    if data[:4] != FLO_MAGIC:
        raise ValueError(f"not a .flo file: starts with {data[:4]!r} and not {FLO_MAGIC!r}")
    width, height = struct.unpack("<ii", data[4:12])
    _check_extent(width, height)
    if len(data) != 12 + 8 * width * height:
        size = "truncated" if len(data) < 12 + 8 * width * height else "too long"
        raise ValueError(f"{size}: {len(data)} bytes, {width}x{height} takes {12 + 8 * width * height}")
    flow = np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2).astype(np.float32)
    valid = np.abs(flow).max(axis=-1) <= FLO_UNKNOWN  # NaN is unknown too
    return flow, valid


def _parse_kitti(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("not a PNG file")
    if b"IEND" not in data[-1024:]:
        raise ValueError("truncated PNG")
    _check_extent(*struct.unpack(">II", data[16:24]))
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # (valid, v, u)
    if bgr is None:
        raise ValueError("the PNG cannot be decoded")
    if bgr.dtype != np.uint16 or bgr.ndim != 3 or bgr.shape[2] != 3:
        raise ValueError(f"expected 16-bit RGB, got {bgr.dtype} of shape {bgr.shape}")
    flow = (bgr[..., 2:0:-1].astype(np.float32) - np.float32(KITTI_ZERO)) / np.float32(KITTI_SCALE)
    return flow, bgr[..., 0] > 0


def _check_extent(width: int, height: int) -> None:
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise ValueError(f"claims {width}x{height} px, allowed are 1 to {MAX_PIXELS} px in all")


def _checked_size(flow: np.ndarray) -> tuple[int, int]:
    if flow.ndim != 3 or flow.shape[2] != 2:
        raise ValueError(f"flow has shape {flow.shape}, expected (H, W, 2)")
    return flow.shape[0], flow.shape[1]
