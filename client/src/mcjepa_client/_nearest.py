"""Search for frames: the embeddings of videos, as `Client.process` leaves them in Parquet files."""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcjepa_client._errors import InputError, file_error
from mcjepa_client._extras import require
from mcjepa_client._files import PathLike, named

_ROWS = 4096  # read at a time
_COLUMNS = ["frame", "timestamp", "vector"]


class Match(NamedTuple):
    """A frame that was found.

    Attributes:
        path: the Parquet file it is in.
        frame: its number in the video.
        timestamp: seconds since the first frame of the video.
        similarity: cosine to the query, -1 to 1.
    """

    path: Path
    frame: int
    timestamp: float
    similarity: float


def nearest(
    embeddings: PathLike | Sequence[PathLike], query: ArrayLike, *, k: int = 5, min_gap: float = 0.0
) -> list[Match]:
    """The frames whose embeddings are most like a query, best first.

    An embedding out of `video`, `process` or `analyze` is of the frame as its flow was computed, one out of
    `embed` of the picture as it is; they differ a little (the model card says by how much). Closest to the
    frames of a video is `client.analyze([picture, picture]).embeddings[0]`.

    Args:
        embeddings: one Parquet file or several, with columns frame, timestamp and vector. They are read in
            parts: memory grows by some 24 bytes a frame.
        query: (D,) numbers of any length but 0.
        k: how many frames at most.
        min_gap: seconds by which frames of one video must be apart, so that the neighbours of the best do
            not fill the answer.

    Raises:
        InputError: the query or an option is out of range; a file is missing, or not of this kind.
        MissingExtraError: pyarrow is not installed.
    """
    if not isinstance(k, int) or k < 1:
        raise InputError(f"k: expected a whole number above 0, got {k!r}")
    if not (math.isfinite(min_gap) and min_gap >= 0):
        raise InputError(f"min_gap: expected 0 s or more, got {min_gap}")
    unit = _unit(query)
    paths = [embeddings] if isinstance(embeddings, str | os.PathLike) else embeddings
    found = [match for path in paths for match in _search(Path(path), unit, k, min_gap)]
    return sorted(found, key=lambda match: -match.similarity)[:k]


def _unit(query: ArrayLike) -> NDArray[np.float64]:
    vector = np.asarray(query)
    if vector.ndim != 1 or vector.dtype.kind not in "fiu":
        raise InputError(f"query: expected numbers of shape (D,), got {vector.dtype} {vector.shape}")
    vector = vector.astype(np.float64)
    length = float(np.linalg.norm(vector))
    if not (math.isfinite(length) and length > 0):
        raise InputError("query: it has no direction, for it is zero or not finite")
    return vector / length


def _search(path: Path, unit: NDArray[np.float64], k: int, min_gap: float) -> Iterator[Match]:
    """The k best of one file."""
    parts = list(_similarities(path, unit))
    if not parts:
        return
    frames, times, similarities = (np.concatenate(column) for column in zip(*parts, strict=True))
    chosen: list[float] = []
    for row in np.argsort(-similarities, kind="stable"):
        if len(chosen) == k or not np.isfinite(similarities[row]):  # NaN comes last
            return
        if all(abs(times[row] - time) >= min_gap for time in chosen):
            chosen.append(times[row])
            yield Match(path, int(frames[row]), float(times[row]), float(similarities[row]))


def _similarities(path: Path, unit: NDArray[np.float64]) -> Iterator[tuple[NDArray[Any], ...]]:
    """Frames, timestamps and cosines (R,), part by part."""
    pa, pq = require("pyarrow", "video"), require("pyarrow.parquet", "video")
    try:
        with pq.ParquetFile(path) as file:
            missing = [name for name in _COLUMNS if name not in file.schema_arrow.names]
            if missing:
                raise InputError(f"embeddings: {path} has no column {', '.join(missing)}")
            for batch in file.iter_batches(_ROWS, columns=_COLUMNS):
                frames, times, vectors = (batch.column(name) for name in _COLUMNS)
                yield frames.to_numpy(), times.to_numpy(), _cosines(_as_rows(vectors, path), unit, path)
    except OSError as error:
        words = f"embeddings: cannot read {path}: {error.strerror or error}"
        raise named(file_error(words, error, is_input=True), path) from error
    except pa.ArrowException as error:
        raise InputError(f"embeddings: cannot read {path}: {error}") from error


def _as_rows(vectors: Any, path: Path) -> NDArray[np.float64]:
    """An Arrow array of lists as (R, D)."""
    flat = vectors.flatten().to_numpy(zero_copy_only=False)
    if vectors.null_count or len(flat) % max(1, len(vectors)):
        raise InputError(f"embeddings: {path} has rows without a vector, or vectors of different lengths")
    return np.asarray(flat, np.float64).reshape(len(vectors), -1)


def _cosines(rows: NDArray[np.float64], unit: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    if rows.shape[1] != len(unit):
        raise InputError(f"query: it has {len(unit)} numbers, the vectors of {path} have {rows.shape[1]}")
    with np.errstate(invalid="ignore"):  # a vector that is not finite has no cosine: NaN
        lengths = np.linalg.norm(rows, axis=1)
        return np.asarray(np.clip(rows @ unit / np.where(lengths > 0, lengths, 1), -1, 1))
