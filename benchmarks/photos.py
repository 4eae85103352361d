"""Large JPEG files to the squares that are embedded: decoded whole, and as the gateway does, smaller.

python benchmarks/photos.py [PHOTO ...]   (default: frames of a real video, enlarged)
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
from common import Uint8Array, machine, read_frames, rounded, take_turns
from mcjepa_server import Settings
from mcjepa_server.decoding.frames import decode_embed_inputs
from mcjepa_server.decoding.images import decode_image
from mcjepa_server.engines.factory import find_model_repository
from mcjepa_server.engines.signatures import graph_file
from mcjepa_server.imaging.limits import PixelBudget
from mcjepa_server.imaging.resize import resize_square
from mcjepa_server.observability.malloc import keep_freed_memory

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it looks at its first import
import onnxruntime as ort

SIZES = ((640, 480), (1280, 960), (1920, 1080), (4000, 3000))
QUALITY = 90
SIDE = 128
PIXELS = 10**8
KEPT_BYTES = 2**26  # of free memory, by this process


def main() -> None:
    keep_freed_memory(KEPT_BYTES)
    cv2.setNumThreads(1)
    photos = [read_photo(path) for path in sys.argv[1:]] or list(read_frames(8))
    session = ort.InferenceSession(graph_file(find_model_repository(Settings()), "mcjepa_embed"))
    report = {f"{w}x{h}": measure(photos, (w, h), session) for w, h in SIZES}
    print(json.dumps(machine(1) | {"photos": len(photos)} | report, indent=1))


def read_photo(path: str) -> Uint8Array:
    return decode_image(Path(path).read_bytes(), path, PixelBudget(PIXELS, PIXELS))


def measure(
    photos: list[Uint8Array], size: tuple[int, int], session: ort.InferenceSession
) -> dict[str, float]:
    """Median milliseconds of a file either way, their ratio, and cosines of the two embeddings."""
    files = [jpeg(photo, size) for photo in photos]
    turns = take_turns(
        {"whole": lambda: list(map(whole, files)), "smaller": lambda: list(map(smaller, files))}, 5
    )
    times = turns.rows()
    cosines = [cosine(session, whole(file), smaller(file)) for file in files]
    ms = {name: times[name]["p50"] / len(files) for name in times}
    return {
        "kilobytes": rounded(np.median([len(file) for file in files]) / 1000),
        **{f"{name}_ms": rounded(value) for name, value in ms.items()},
        "ratio": rounded(turns.ratio("whole", "smaller")),
        "cosine_median": round(float(np.median(cosines)), 5),
        "cosine_least": round(min(cosines), 5),
    }


def jpeg(photo: Uint8Array, size: tuple[int, int]) -> bytes:
    shrinks = size[0] < photo.shape[1]
    scaled = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    _, data = cv2.imencode(".jpg", scaled[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return data.tobytes()


def whole(data: bytes) -> Uint8Array:
    return resize_square(decode_image(data, "photo", PixelBudget(PIXELS, PIXELS)), SIDE)


def smaller(data: bytes) -> Uint8Array:
    pixels, _ = decode_embed_inputs((data,), ("photo",), PixelBudget(PIXELS, PIXELS), SIDE)
    return np.frombuffer(pixels, np.uint8).reshape(SIDE, SIDE, 3)


def cosine(session: ort.InferenceSession, first: Uint8Array, second: Uint8Array) -> float:
    (rows,) = session.run(["embedding"], {"images": np.stack([first, second])})
    a, b = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return float(a @ b)


if __name__ == "__main__":
    main()
