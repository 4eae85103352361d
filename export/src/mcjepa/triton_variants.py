"""Variants of a model repository for other Triton backends: the same models, names, tensors and contract.

python    Triton's python backend and onnxruntime, for a Triton without an ONNX Runtime backend.
ort-trt   TensorRT inside the ONNX Runtime backend: engines are built on first use and cached on disk.
tensorrt  TensorRT plans, built on the GPU host by `mcjepa build-tensorrt`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from mcjepa.quality import QUALITIES, flow_name
from mcjepa.triton_serving import BUCKETS

MODELS = ("mcjepa_flow", "mcjepa_flow_bidirectional", "mcjepa_embed")  # every model repository has these
ENGINE_CACHE = "/var/cache/mcjepa-tensorrt"
MAX_PROFILE_FRAMES = 8  # longest clip that an engine takes
MAX_PROFILE_SIDE = 1024  # px

Edit = Callable[[model_config_pb2.ModelConfig], None]


def write_variant(source: Path, target: Path, variant: str, threads: int | None = None) -> None:
    """Writes the variant of the repository `source` to `target`, which is replaced as a whole.

    threads: of one inference on the CPU, if it is to differ from the source.

    Raises ValueError for an unknown variant and where a model is missing from `source`.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}, expected one of {', '.join(VARIANTS)}")
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for name in models_of(source):
        message = read_config(source / name / "config.pbtxt")
        VARIANTS[variant](message)
        if threads is not None:
            message.parameters["intra_op_thread_count"].string_value = str(threads)
        _place_files(source / name / "1", part / name / "1", variant)
        (part / name / "config.pbtxt").write_text(text_format.MessageToString(message), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(part, target)


def models_of(repository: Path) -> list[str]:
    """Return the names of the models of a repository: MODELS, and the qualities that it has."""
    better = [flow_name(quality) for quality in QUALITIES if flow_name(quality) not in MODELS]
    return [*MODELS, *(name for name in better if (repository / name).is_dir())]


def read_config(path: Path) -> model_config_pb2.ModelConfig:
    """Parses a config.pbtxt. Raises ValueError naming the file."""
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ValueError(f"{path.parent.name}/config.pbtxt cannot be read: {error}") from error


def profiles(message: model_config_pb2.ModelConfig) -> list[dict[str, list[int]]]:
    """TensorRT optimisation profiles: min, opt and max input sizes (with the batch).

    One for each bucket: a profile has one set of tactics, so a wide one is slow everywhere. Then a wide one
    for the sizes between (the gateway's trial inference is one).
    """
    largest = message.max_batch_size
    if message.input[0].name != "frames":
        dims = list(message.input[0].dims)
        return [{"min": [1, *dims], "opt": [largest, *dims], "max": [largest, *dims]}]
    batch, frames = max(1, largest // 2), MAX_PROFILE_FRAMES
    narrow = [
        {"min": [1, 2, h, w, 3], "opt": [batch, 2, h, w, 3], "max": [largest, frames, h, w, 3]}
        for h, w in BUCKETS
    ]
    wide = {
        "min": [1, 2, 64, 64, 3],
        "opt": [1, 2, 512, 512, 3],
        "max": [largest, frames, MAX_PROFILE_SIDE, MAX_PROFILE_SIDE, 3],
    }
    return [*narrow, wide]


def shape_text(message: model_config_pb2.ModelConfig, bound: str) -> list[str]:
    """The sizes of every profile as TensorRT's tools write them, `frames:1x2x384x640x3`."""
    name = message.input[0].name
    return [f"{name}:{'x'.join(map(str, profile[bound]))}" for profile in profiles(message)]


def _to_python(message: model_config_pb2.ModelConfig) -> None:
    message.backend = "python"


def _to_ort_trt(message: model_config_pb2.ModelConfig) -> None:
    _on_gpu(message)
    accelerator = message.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
    accelerator.parameters.update(
        {
            "precision_mode": "FP32",  # half would round coordinates, and nothing compares answers here
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": f"{ENGINE_CACHE}/{message.name}",
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": ENGINE_CACHE,
            **{f"trt_profile_{b}_shapes": ",".join(shape_text(message, b)) for b in ("min", "opt", "max")},
        }
    )


def _to_tensorrt(message: model_config_pb2.ModelConfig) -> None:
    _on_gpu(message)
    message.backend = "tensorrt"
    message.default_model_filename = "model.plan"
    message.instance_group[0].profile.extend(str(index) for index in range(len(profiles(message))))


def _on_gpu(message: model_config_pb2.ModelConfig) -> None:
    for group in message.instance_group:
        group.kind = model_config_pb2.ModelInstanceGroup.KIND_GPU


VARIANTS: dict[str, Edit] = {"python": _to_python, "ort-trt": _to_ort_trt, "tensorrt": _to_tensorrt}


def _place_files(source: Path, target: Path, variant: str) -> None:
    """The ONNX file, and model.py for the python backend; a plan is added by who builds it."""
    target.mkdir(parents=True, exist_ok=True)
    if not (source / "model.onnx").is_file():
        raise ValueError(f"{source.parent.name}/1/model.onnx is missing")
    if variant != "tensorrt":
        shutil.copyfile(source / "model.onnx", target / "model.onnx")
    if variant == "python":
        text = resources.files("mcjepa").joinpath("triton_python", "model.py").read_text(encoding="utf-8")
        (target / "model.py").write_text(text, encoding="utf-8")
