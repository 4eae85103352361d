"""`model.py` of the variant `python`: the same ONNX file, run by onnxruntime inside Triton's python backend.

For a Triton without an ONNX Runtime backend. onnxruntime has to be importable by the backend's Python.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it looks at its first import
import onnxruntime as ort

FRAMES = "frames"  # input of the flow models; the size of images to embed is checked by Triton


class TritonPythonModel:
    """One session; the requests that Triton's batcher put together run as one batch."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        self.input_name: str = config["input"][0]["name"]
        self.stride = int(config["parameters"]["stride"]["string_value"])
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self.session = ort.InferenceSession(str(path), session_options(config), providers=providers(args))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response for each request, in order.

        A request that was cancelled meanwhile, or whose frames have a size that the model does not take, is
        not computed; the others of its batch are.
        """
        refused = [self._refuse(request) for request in requests]
        live = [request for request, refusal in zip(requests, refused, strict=True) if refusal is None]
        answers = iter(self._answer(live) if live else [])
        return [next(answers) if refusal is None else refusal for refusal in refused]

    def _refuse(self, request: Any) -> Any | None:
        if request.is_cancelled():
            return failure("cancelled", pb_utils.TritonError.CANCELLED)
        *_, height, width, _ = self._input(request).shape
        if self.input_name == FRAMES and (height % self.stride or width % self.stride):
            return failure(
                f"{FRAMES}: height {height} and width {width} must be multiples of {self.stride}; "
                "pad the frames by repeating their last row and column",
                pb_utils.TritonError.INVALID_ARG,
            )
        return None

    def _input(self, request: Any) -> np.ndarray:
        return pb_utils.get_input_tensor_by_name(request, self.input_name).as_numpy()

    def _answer(self, requests: list[Any]) -> list[Any]:
        arrays = [self._input(request) for request in requests]
        names = sorted({name for request in requests for name in request.requested_output_names()})
        try:
            batch = np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
            outputs = dict(zip(names, self.session.run(names, {self.input_name: batch}), strict=True))
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            return [failure(f"onnxruntime: {error}", pb_utils.TritonError.INTERNAL) for _ in requests]
        ends = np.cumsum([len(array) for array in arrays])
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor(n, outputs[n][end - len(array) : end])
                    for n in request.requested_output_names()
                ]
            )
            for request, array, end in zip(requests, arrays, ends, strict=True)
        ]


def session_options(config: dict[str, Any]) -> ort.SessionOptions:
    """Those of the gateway's own engine; the number of threads comes from config.pbtxt."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(config["parameters"]["intra_op_thread_count"]["string_value"])
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def providers(args: dict[str, str]) -> list[Any]:
    """CUDA on an instance that Triton placed on a GPU, where this onnxruntime has it; else the CPU."""
    cuda = "CUDAExecutionProvider"
    if args["model_instance_kind"] != "GPU" or cuda not in ort.get_available_providers():
        return ["CPUExecutionProvider"]
    options = {"device_id": args["model_instance_device_id"], "cudnn_conv_algo_search": "HEURISTIC"}
    return [(cuda, options), "CPUExecutionProvider"]


def failure(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
