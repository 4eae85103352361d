"""`mcjepa build-tensorrt`: TensorRT plans for this host's GPU, in the Triton image. Needs no torch.

Plans only run on the kind of GPU and the TensorRT they were built with. Nothing is put in place before a
tritonserver that serves the plans has answered like the ONNX files.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tritonclient.grpc import InferenceServerClient, model_config_pb2
from tritonclient.utils import InferenceServerException

from mcjepa.errors import McjepaError
from mcjepa.triton_parity import Difference, check_served
from mcjepa.triton_variants import models_of, profiles, read_config, shape_text, write_variant

BUILD_TIMEOUT_S = 3600
START_TIMEOUT_S = 300


def build_tensorrt(
    source: Path, target: Path, precision: str, trtexec: str, tritonserver: str
) -> list[Difference]:
    """Writes the variant `tensorrt` of the repository `source` to `target`.

    precision: fp16 or fp32. Raises McjepaError where a tool fails, ServedParityError where the plans answer
    otherwise than the ONNX files; `target` is then as it was.
    """
    part = target.with_name(f".{target.name}.part")
    write_variant(source, part, "tensorrt")
    for name in models_of(source):
        config = read_config(part / name / "config.pbtxt")
        plan = part / name / "1" / "model.plan"
        command = build_command(config, source / name / "1" / "model.onnx", plan, precision, trtexec)
        _run(command, f"{name}: trtexec")
    with _served(part, tritonserver) as url:
        differences = check_served(url, source)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(part, target)
    return differences


def build_command(
    config: model_config_pb2.ModelConfig, onnx: Path, plan: Path, precision: str, trtexec: str
) -> list[str]:
    """With a profile for each bucket, and the wide one."""
    command = [trtexec, f"--onnx={onnx}", f"--saveEngine={plan}", "--skipInference"]
    if precision == "fp16":
        command.append("--fp16")
    for index in range(len(profiles(config))):
        command.append(f"--profile={index}")
        command += [f"--{bound}Shapes={shape_text(config, bound)[index]}" for bound in ("min", "opt", "max")]
    return command


def _run(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
    except FileNotFoundError:
        raise McjepaError(f"{what}: there is no {command[0]} here; run this in the Triton image") from None
    except subprocess.TimeoutExpired:
        raise McjepaError(f"{what}: not finished after {BUILD_TIMEOUT_S} s") from None
    if done.returncode != 0:
        raise McjepaError(f"{what} failed ({done.returncode}): {(done.stdout + done.stderr)[-2000:]}")


@contextmanager
def _served(repository: Path, tritonserver: str) -> Iterator[str]:
    """A tritonserver on the repository while the context lasts; its gRPC address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = "{}:{}".format(*free.getsockname())
    host, port = url.split(":")
    command = [tritonserver, f"--model-repository={repository}", f"--grpc-address={host}"]
    command += [f"--grpc-port={port}", "--allow-http=false", "--allow-metrics=false"]
    process = subprocess.Popen(command)
    try:
        _wait_until_ready(process, url)
        yield url
    finally:
        process.kill()
        process.wait(timeout=60)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise McjepaError(f"tritonserver ended with {process.returncode}; see its messages above")
        try:
            with InferenceServerClient(url) as client:
                if client.is_server_ready(client_timeout=5.0):
                    return
        except InferenceServerException:
            time.sleep(0.5)
    raise McjepaError(f"tritonserver was not ready after {START_TIMEOUT_S} s")
