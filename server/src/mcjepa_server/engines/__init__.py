"""Engines: what runs the exported models. Each lives in a module of its own.

ONNX Runtime and OpenVINO report their use to their makers, and keep a file in the user's home for it, unless
they are told not to before they are first imported. So this is done here, before any engine can be.
"""

import os
import sys

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# OpenVINO has no setting for it, but does without the package.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
