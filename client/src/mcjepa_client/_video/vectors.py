"""The embeddings of a video: appended to a plain file while they come, a Parquet file in the end.

Columns of `embeddings.parquet`, one row a selected frame, in order:
    frame      int64, number in the source
    timestamp  float64, seconds since the first frame of the source
    vector     list of D float32, of length 1
"""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcjepa_client._extras import require

PARQUET_FILE = "embeddings.parquet"
_ROWS = 4096  # of a row group; memory is bounded by it
_DTYPE = np.dtype("<f4")


class VectorFile:
    """Rows of float32, appended; `rows` of them count, and what a crash left behind them is dropped."""

    def __init__(self, path: Path, rows: int, size: int | None) -> None:
        self._file = open(path, "a+b")  # noqa: SIM115 - open until close()
        self._file.truncate(rows * (size or 0) * _DTYPE.itemsize)

    def append(self, vectors: NDArray[np.float32]) -> None:
        """Vectors (K, D). Returns when they are on the disk."""
        self._file.write(vectors.astype(_DTYPE).tobytes())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def write_parquet(
    raw: Path, target: Path, size: int, indices: NDArray[np.int64], timestamps: NDArray[np.float64]
) -> None:
    """The rows of a `VectorFile`, each of `size` numbers, with their frames, as Parquet. Atomic."""
    pa, pq = require("pyarrow", "video"), require("pyarrow.parquet", "video")
    vector = pa.list_(pa.field("element", pa.float32(), nullable=False), size)
    schema = pa.schema([("frame", pa.int64()), ("timestamp", pa.float64()), ("vector", vector)])
    temporary = target.with_name(f".{target.name}.tmp")
    with (
        open(raw, "rb") as file,
        open(temporary, "wb") as output,  # Arrow wants names in UTF-8
        pq.ParquetWriter(output, schema, compression="zstd") as writer,
    ):
        for start in range(0, len(indices), _ROWS):
            stop = min(start + _ROWS, len(indices))
            values = np.frombuffer(file.read((stop - start) * size * _DTYPE.itemsize), _DTYPE)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(values), type=vector)
            columns = [pa.array(indices[start:stop]), pa.array(timestamps[start:stop]), vectors]
            writer.write_table(pa.table(columns, schema=schema))
    os.replace(temporary, target)
