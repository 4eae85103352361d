"""The least that serves the flow model: FastAPI around the same file.

python benchmarks/bare_fastapi.py MODEL_REPOSITORY THREADS --port PORT
"""

from __future__ import annotations

from pathlib import Path

import uvicorn
from fastapi import FastAPI, Response, UploadFile
from peer_model import PeerModel, arguments


def make_app(repository: Path, threads: int) -> FastAPI:
    app = FastAPI()
    model = PeerModel(repository, threads)

    @app.get("/readyz")
    def ready() -> str:
        return "ready"

    @app.post("/v1/flow")
    def flow(frame1: UploadFile, frame2: UploadFile) -> Response:  # in a thread
        return Response(model.flow(frame1.file.read(), frame2.file.read()))

    return app


if __name__ == "__main__":
    given = arguments(__doc__)
    uvicorn.run(make_app(given.repository, given.threads), port=given.port, log_level="warning")
