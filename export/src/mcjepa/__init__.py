"""MC-JEPA: joint self-supervised training of optical flow and image embeddings, evaluation and export."""

import os

# ONNX Runtime reports its use to its maker unless it is told not to before it is first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
