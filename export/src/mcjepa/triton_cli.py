"""The commands `mcjepa variant` and `mcjepa build-tensorrt`. Need no torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

VARIANTS = ("python", "ort-trt")


def add_triton_commands(commands: Any, repository: Path) -> None:
    variant = commands.add_parser("variant", help="a model repository for another backend of Triton")
    variant.add_argument("variant", choices=VARIANTS, help="backend python, or TensorRT inside ONNX Runtime")
    variant.set_defaults(run_command=_variant)
    build = commands.add_parser("build-tensorrt", help="TensorRT plans for this GPU, in the Triton image")
    build.add_argument("--precision", choices=("fp16", "fp32"), default="fp16", help="default: %(default)s")
    build.add_argument("--trtexec", default="/usr/src/tensorrt/bin/trtexec", help="default: %(default)s")
    build.add_argument("--tritonserver", default="tritonserver", help="default: %(default)s")
    build.set_defaults(run_command=_build)
    for p in (variant, build):
        p.add_argument("--model-repository", type=Path, default=repository, help=f"default: {repository}")
    variant.add_argument("--output", type=Path, help="default: beside the repository, named after both")
    build.add_argument("--output", type=Path, required=True, help="folder to write; replaced as a whole")


def write_variants(repository: Path, variants: list[str]) -> None:
    """Each beside the repository, as `model_repository-python`."""
    from mcjepa.triton_variants import write_variant

    for variant in variants:
        target = _beside(repository, variant)
        write_variant(repository, target, variant)
        print(target)


def _beside(repository: Path, variant: str) -> Path:
    return repository.with_name(f"{repository.name}-{variant}")


def _variant(args: argparse.Namespace) -> None:
    from mcjepa.triton_variants import write_variant

    target = args.output or _beside(args.model_repository, args.variant)
    write_variant(args.model_repository, target, args.variant)
    print(target)


def _build(args: argparse.Namespace) -> None:
    from mcjepa.triton_tensorrt import build_tensorrt

    found = build_tensorrt(
        args.model_repository, args.output, args.precision, args.trtexec, args.tritonserver
    )
    print(*found, args.output, sep="\n")
