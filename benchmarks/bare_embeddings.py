"""The least that serves embeddings: FastAPI around the same file, raw float32 out, no check of anything.

python benchmarks/bare_embeddings.py MODEL_REPOSITORY THREADS --port PORT
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import uvicorn
from fastapi import FastAPI, File, Response, UploadFile
from peer_model import arguments, decode, open_session


def make_app(repository: Path, threads: int) -> FastAPI:
    app = FastAPI()
    session = open_session(repository, "mcjepa_embed", threads)
    side = session.get_inputs()[0].shape[1]

    @app.get("/readyz")
    def ready() -> str:
        return "ready"

    @app.post("/v1/embeddings")
    def embeddings(images: Annotated[list[UploadFile], File()]) -> Response:  # in a thread
        scaled = [
            cv2.resize(decode(f.file.read()), (side, side), interpolation=cv2.INTER_AREA) for f in images
        ]
        (vectors,) = session.run(["embedding"], {"images": np.stack(scaled)})
        return Response(vectors.tobytes())

    return app


if __name__ == "__main__":
    given = arguments(__doc__)
    uvicorn.run(make_app(given.repository, given.threads), port=given.port, log_level="warning")
