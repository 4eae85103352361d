"""The flow model behind BentoML, around the same file; BentoML has a /readyz of its own.

MODEL_REPOSITORY=... THREADS=2 bentoml serve bentoml_service:Flow --working-dir benchmarks --port PORT
"""

import os
from pathlib import Path

import bentoml
from peer_model import PeerModel


@bentoml.service(traffic={"timeout": 300, "max_concurrency": 256})
class Flow:
    def __init__(self) -> None:
        self.model = PeerModel(Path(os.environ["MODEL_REPOSITORY"]), int(os.environ["THREADS"]))

    @bentoml.api(route="/v1/flow")  # type: ignore[untyped-decorator]
    def flow(self, frame1: Path, frame2: Path) -> bytes:
        return self.model.flow(frame1.read_bytes(), frame2.read_bytes())
