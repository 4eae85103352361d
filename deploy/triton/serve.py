"""Starts a real tritonserver without Docker: the binary of the PyPI wheel nvidia-pytriton, on the CPU.

Runs in an environment of its own (`make triton` makes it), because the wheel needs numpy 1. That Triton has
the python backend only, so the model repository is served as its variant `python`. This process becomes
tritonserver.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from mcjepa.triton_variants import write_variant

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def main() -> None:
    arguments = parse_arguments()
    wheel = find_wheel()
    work: Path = arguments.work.resolve() / str(arguments.grpc_port)
    work.mkdir(parents=True, exist_ok=True)
    try:
        write_variant(arguments.model_repository, work / "models", "python", arguments.threads)
    except ValueError as error:
        sys.exit(f"{arguments.model_repository}: {error}; make export writes a model repository")
    place_backend(wheel / "tritonserver", work / "backends" / "python")
    prefix = f"mcjepa-{arguments.grpc_port}-"
    for left in Path("/dev/shm").glob(f"{prefix}*"):  # of a server that was killed
        left.unlink(missing_ok=True)
    server = wheel / "tritonserver" / "bin" / "tritonserver"
    os.execve(server, [str(server), *options(arguments, work, prefix)], environment(wheel))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model-repository", type=Path, default=Path("model_repository"), metavar="DIR")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("out/triton"),
        metavar="DIR",
        help="for its models and backend, under the gRPC port; default %(default)s",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of one inference; default one per core")
    parser.add_argument("--host", default="127.0.0.1", help="default %(default)s")
    parser.add_argument("--http-port", type=int, default=8100, help="default %(default)s")
    parser.add_argument("--grpc-port", type=int, default=8001, help="default %(default)s")
    parser.add_argument("--metrics-port", type=int, default=8002, help="default %(default)s")
    return parser.parse_args()


def find_wheel() -> Path:
    spec = find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("nvidia-pytriton is not installed here: make triton installs it into .venv-triton")
    return Path(spec.submodule_search_locations[0])


def place_backend(tritonserver: Path, target: Path) -> None:
    """The python backend, and the stub for this Python, which the backend looks for beside itself."""
    stub = tritonserver / "python_backend_stubs" / VERSION / "triton_python_backend_stub"
    if not stub.is_file():
        sys.exit(f"nvidia-pytriton has no python backend for Python {VERSION}; make PYTHON=... names another")
    shutil.rmtree(target, ignore_errors=True)  # anew: of a server that was killed, its stub may still run
    shutil.copytree(tritonserver / "backends" / "python", target)
    shutil.copy(stub, target)


def options(arguments: argparse.Namespace, work: Path, prefix: str) -> list[str]:
    return [
        f"--model-repository={work / 'models'}",
        f"--backend-directory={work / 'backends'}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        f"--http-address={arguments.host}",
        f"--http-port={arguments.http_port}",
        f"--grpc-address={arguments.host}",
        f"--grpc-port={arguments.grpc_port}",
        f"--metrics-address={arguments.host}",
        f"--metrics-port={arguments.metrics_port}",
        "--allow-gpu-metrics=false",
        "--disable-auto-complete-config",
        "--exit-timeout-secs=30",
    ]


def environment(wheel: Path) -> dict[str, str]:
    """The server's libraries are beside the package; its python backend takes the first Python in PATH."""
    libraries = [str(wheel.parent / "nvidia_pytriton.libs"), os.environ.get("LD_LIBRARY_PATH", "")]
    path = [str(Path(sys.prefix, "bin")), os.environ.get("PATH", "")]
    return {
        **os.environ,
        "ORT_DISABLE_TELEMETRY": "1",
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
        "PATH": os.pathsep.join(filter(None, path)),
    }


if __name__ == "__main__":
    main()
