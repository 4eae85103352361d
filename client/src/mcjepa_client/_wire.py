"""Reply bodies, read with suspicion: nothing is unpickled, and no wrong shape or number gets past here."""

import base64
import io
import json
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from mcjepa_client._errors import InvalidReplyError
from mcjepa_client._steps import Reply

Arrays = Mapping[str, NDArray[Any]]


def reject(reply: Reply, problem: str) -> NoReturn:
    """Raise InvalidReplyError for `reply`."""
    raise InvalidReplyError(
        f"the server's reply is not usable: {problem}",
        status_code=reply.status_code,
        request_id=reply.request_id,
        body=reply.content,
    )


def read_json(reply: Reply) -> dict[str, Any]:
    """The JSON object of a reply."""
    try:
        body = json.loads(reply.content)
    except (ValueError, RecursionError):
        start = reply.content[:80].decode("utf-8", errors="replace")
        reject(reply, f"expected JSON, got {reply.content_type or 'no content type'}: {start!r}")
    if not isinstance(body, dict):
        reject(reply, f"expected a JSON object, got {type(body).__name__}")
    return body


def read_npz(reply: Reply) -> Arrays:
    """All arrays of a reply in NumPy's `.npz` format."""
    if not reply.content.startswith(b"PK"):
        start = reply.content[:80].decode("utf-8", errors="replace")
        reject(reply, f"expected an npz archive, got {reply.content_type or 'no content type'}: {start!r}")
    try:
        with np.load(io.BytesIO(reply.content), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # NumPy, zipfile and zlib raise anything at all on hostile bytes
        reject(reply, f"broken npz archive ({error})")
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            reject(reply, f"{name!r} in the npz archive is no array")
    return arrays


def take(reply: Reply, arrays: Arrays, name: str, shape: tuple[int | None, ...]) -> NDArray[np.float32]:
    """Array `name`, float32, finite, of `shape`, where None stands for any size above zero."""
    array = _find(reply, arrays, name)
    if array.dtype.newbyteorder("=") != np.float32 or not _fits(array.shape, shape):
        expected = tuple("*" if size is None else size for size in shape)
        reject(reply, f"array {name!r}: expected float32 {expected}, got {array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        reject(reply, f"array {name!r} holds numbers that are not finite")
    return array.astype(np.float32, copy=False)


def take_mask(reply: Reply, arrays: Arrays, name: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Array `name` of 0/1 or False/True as booleans, of exactly `shape`."""
    array = _find(reply, arrays, name)
    if array.dtype.kind not in "bu" or array.shape != shape:
        reject(reply, f"array {name!r}: expected a mask {shape}, got {array.dtype} {array.shape}")
    return array.astype(np.bool_)


def take_meta(reply: Reply, arrays: Arrays) -> dict[str, Any]:
    """The JSON object in array `meta`, kept as text or as UTF-8 bytes; {} when there is none."""
    array = arrays.get("meta")
    if array is None:
        return {}
    try:
        meta = json.loads(array.tobytes() if array.dtype == np.uint8 else str(array[()]))
    except (ValueError, RecursionError):
        reject(reply, "array 'meta' is not JSON")
    if not isinstance(meta, dict):
        reject(reply, "array 'meta' is not a JSON object")
    return meta


def read_vector(reply: Reply, value: object) -> NDArray[np.float32]:
    """One embedding: base64 of little-endian float32, or a list of numbers. Shape (D,), finite, D > 0."""
    try:
        if isinstance(value, str):
            vector = np.frombuffer(base64.b64decode(value, validate=True), "<f4").astype(np.float32)
        else:
            vector = np.array(value, dtype=np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        reject(reply, f"an embedding is neither base64 float32 nor a list of numbers ({error})")
    if vector.ndim != 1 or not vector.size or not np.isfinite(vector).all():
        reject(reply, f"an embedding of shape {vector.shape} is empty, nested or not finite")
    return vector


def _find(reply: Reply, arrays: Arrays, name: str) -> NDArray[Any]:
    if name not in arrays:
        reject(reply, f"array {name!r} is missing, there are {sorted(arrays)}")
    return arrays[name]


def _fits(actual: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(actual) == len(expected) and all(
        have == want or (want is None and have > 0) for have, want in zip(actual, expected, strict=True)
    )
