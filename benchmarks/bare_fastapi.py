"""The least that serves the flow model: FastAPI and OpenVINO around the same file, no check of anything.

python benchmarks/bare_fastapi.py MODEL_REPOSITORY THREADS --port PORT
"""

from __future__ import annotations

import argparse
from pathlib import Path
from threading import Lock

import cv2
import numpy as np
import openvino as ov
import uvicorn
from fastapi import FastAPI, Response, UploadFile


def make_app(repository: Path, threads: int) -> FastAPI:
    app = FastAPI()
    properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    model = ov.Core().compile_model(repository / "mcjepa_flow" / "1" / "model.onnx", "CPU", properties)
    turn = Lock()

    @app.get("/readyz")
    def ready() -> str:
        return "ready"

    @app.post("/v1/flow")
    def flow(frame1: UploadFile, frame2: UploadFile) -> Response:  # in a thread
        frames = np.stack([decode(frame1.file.read()), decode(frame2.file.read())])[None]
        with turn:
            (raw, *_) = model({0: frames}).values()
        return Response(np.ascontiguousarray(raw[0, 0].transpose(1, 2, 0)).tobytes())

    return app


def decode(data: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert image is not None, "an image"
    return image


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", type=Path)
    parser.add_argument("threads", type=int)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    uvicorn.run(make_app(given.repository, given.threads), port=given.port, log_level="warning")
