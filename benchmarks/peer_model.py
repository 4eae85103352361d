"""What the peers serve: the flow model in ONNX Runtime, PNG in, raw float32 out, no check of anything."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from threading import Lock

import cv2
import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it looks at its first import
import onnxruntime as ort


class PeerModel:
    """One inference at a time, on all threads that it was given."""

    def __init__(self, repository: Path, threads: int) -> None:
        self._session = open_session(repository, "mcjepa_flow", threads)
        self._turn = Lock()

    def flow(self, frame1: bytes, frame2: bytes) -> bytes:
        """Two image files -> flow (H, W, 2) px, float32."""
        frames = np.stack([decode(frame1), decode(frame2)])[None]
        with self._turn:
            (flow,) = self._session.run(["flow"], {"frames": frames})
        return np.ascontiguousarray(flow[0, 0].transpose(1, 2, 0)).tobytes()


def open_session(repository: Path, model: str, threads: int) -> ort.InferenceSession:
    """A model of the repository with the gateway's settings, so that only the serving differs."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
    options.add_session_config_entry("session.intra_op.spin_backoff_max", "16")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    path = repository / model / "1" / "model.onnx"
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def arguments(description: str | None) -> argparse.Namespace:
    """What a peer's program is given: `repository`, `threads` and `port`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("repository", type=Path)
    parser.add_argument("threads", type=int)
    parser.add_argument("--port", type=int, required=True)
    return parser.parse_args()


def decode(data: bytes) -> np.ndarray:
    """An image file -> (H, W, 3) uint8 RGB."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert image is not None, "an image"
    return image
