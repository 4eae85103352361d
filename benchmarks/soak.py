"""Mixed traffic for an hour: is every answer right, is memory flat, are descriptors given back?

Every reply is compared with the expected one: those of inference byte by byte with the answers of a second
gateway in this process (same model, no HTTP, no decoder processes), errors by their status and code. Good
requests are mixed with broken images, callers that hang up while they send or while they wait, callers that
wait for a millisecond, and the attacks of attacks.py; other connections are held without reading or sending.
The exit code is 1 if an answer was wrong, or memory or descriptors grew.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import numpy as np
from attacks import ATTACKS, Siege, Target
from mcjepa_server import Settings, create_app
from serving import ROOT, ServerProcess, frames, machine, percentile, report, usage
from starlette.testclient import TestClient

WARM_UP_S = 120.0  # allocators and caches settle before memory is compared
GROWTH_MB, GROWTH_SHARE = 8.0, 0.05
SETTINGS: dict[str, Any] = {"engine": "onnxruntime", "intra_op_threads": 1}
#: Without those that fill the queue, whose others are rightly refused then.
QUIET_ATTACKS = [attack for name, attack in ATTACKS.items() if name != "hang_ups"]


@dataclass(frozen=True)
class Call:
    """A request and what it must be answered with: a status, and bytes or the code of an error."""

    name: str
    method: str
    path: str
    arguments: dict[str, Any]
    status: int
    expected: bytes | str | None = None


@dataclass
class Record:
    """What the callers saw."""

    replies: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, seconds: float, problem: str | None) -> None:
        with self.lock:
            self.replies[name] += 1
            self.seconds.append(seconds)
            if problem is not None:
                self.wrong.append(f"{name}: {problem}"[:300])


def main() -> None:
    arguments = parse_arguments()
    calls = [*references(good_calls(*map(int, arguments.size.split("x")))), *bad_calls()]
    times: dict[str, Any] = {"keep_alive_s": 5, "write_timeout_s": 10, "body_timeout_s": 20}
    with ServerProcess(port=arguments.port, **SETTINGS, **times) as server:
        figures = soak(server, calls, arguments)
    report(figures, arguments.output)
    sys.exit(0 if figures["passed"] else 1)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60, help="default %(default)g")
    parser.add_argument("--rate", type=float, default=4, help="requests a second, default %(default)g")
    parser.add_argument("--callers", type=int, default=3, help="default %(default)s")
    parser.add_argument("--size", default="192x128", metavar="WxH", help="of frames, default %(default)s")
    parser.add_argument("--port", type=int, default=0, help="default a free one")
    parser.add_argument("--output", type=Path, metavar="FILE", help="keep the figures as JSON")
    return parser.parse_args()


def good_calls(width: int, height: int) -> list[Call]:
    """Every path and format, sizes that are padded, and one that is scaled down."""
    jpeg, png = frames(width, height), frames(width, height, suffix=".png")
    odd, large = frames(width - 7, height - 5), frames(6 * width, 6 * height)
    pairs = {"jpeg": jpeg, "png": png, "odd": odd, "large": large}
    queries = ["flo", "kitti", "npy", "png", "json", "npz&direction=both&occlusion=true"]
    calls = [flow(f"flow {query}", pairs["jpeg"], f"format={query}") for query in queries]
    calls += [flow(f"flow of {name}", pair, f"max_side={width}") for name, pair in pairs.items()]
    clip = [("frames", (f"{i}", data)) for i, data in enumerate(frames(width, height, 4))]
    calls.append(Call("analyze", "POST", "/v1/analyze?direction=both", {"files": clip}, 200))
    images = [("images", ("i", data)) for data in (*jpeg, *png)]
    calls.append(Call("embed files", "POST", "/v1/embeddings", {"files": images}, 200))
    texts = [base64.b64encode(data).decode() for data in jpeg]
    document = {"input": texts, "encoding_format": "base64"}
    calls.append(Call("embed json", "POST", "/v1/embeddings", {"json": document}, 200))
    return calls


def flow(name: str, pair: list[bytes], query: str) -> Call:
    files = {"frame1": ("1", pair[0]), "frame2": ("2", pair[1])}
    return Call(name, "POST", f"/v1/flow?{query}", {"files": files}, 200)


def references(calls: list[Call]) -> Iterator[Call]:
    """The calls with the bytes that a second gateway answers."""
    settings = Settings(model_repository=ROOT / "model_repository", decode_processes=0, **SETTINGS)
    with TestClient(create_app(settings)) as client:
        for call in calls:
            reply = client.request(call.method, call.path, **call.arguments)
            reply.raise_for_status()
            yield Call(call.name, call.method, call.path, call.arguments, 200, reply.content)


def bad_calls() -> list[Call]:
    good, _ = frames(64, 64, suffix=".png")
    broken = {
        "truncated": (400, "undecodable_image", good[: len(good) // 2]),
        "noise": (400, "undecodable_image", np.random.default_rng(1).bytes(5000)),
        "empty": (400, "undecodable_image", b""),
        "small": (422, "invalid_input", frames(32, 8, suffix=".png")[0]),
        "other size": (422, "invalid_input", frames(80, 64)[0]),
    }
    calls = [
        Call(
            name, "POST", "/v1/flow", {"files": {"frame1": ("1", good), "frame2": ("2", data)}}, status, code
        )
        for name, (status, code, data) in broken.items()
    ]
    hurried = {
        "files": {"frame1": ("1", good), "frame2": ("2", good)},
        "headers": {"X-Request-Timeout": "0.001"},
    }
    calls.append(Call("hurried", "POST", "/v1/flow", hurried, 504, "deadline_exceeded"))
    calls.append(Call("not multipart", "POST", "/v1/flow", {"content": b"x"}, 415, "unsupported_media_type"))
    url = {"json": {"input": "http://127.0.0.1/x.png"}}
    calls.append(Call("a URL", "POST", "/v1/embeddings", url, 422, "invalid_input"))
    calls += [Call(path, "GET", path, {}, 200) for path in ("/healthz", "/readyz", "/v1/info", "/metrics")]
    return calls


def soak(server: ServerProcess, calls: list[Call], arguments: argparse.Namespace) -> dict[str, Any]:
    record, stop = Record(), threading.Event()
    start = time.monotonic()
    samples: list[tuple[float, dict[str, float]]] = []
    siege = Siege(Target.of(server.url), unread=2, slow=3, idle=50)
    with siege, ThreadPoolExecutor(arguments.callers) as pool:
        pause = arguments.callers / arguments.rate
        futures = [
            pool.submit(caller, server.url, calls, record, stop, pause, seed)
            for seed in range(arguments.callers)
        ]
        while (age := time.monotonic() - start) < arguments.minutes * 60 and server.process.poll() is None:
            samples.append((age, usage(server.pid)))  # the first one before the siege
            stop.wait(10)
            if arguments.output:
                report_progress(record, samples, arguments.output)
        stop.set()
        for future in futures:
            future.result()
    time.sleep(6)  # kept connections end by themselves
    samples.append((time.monotonic() - start, usage(server.pid)))
    return summary(record, samples, arguments)


def caller(
    url: str, calls: list[Call], record: Record, stop: threading.Event, pause: float, seed: int
) -> None:
    rng = random.Random(seed)
    with httpx2.Client(base_url=url, timeout=120) as client:
        while not stop.wait(rng.uniform(0, 2 * pause)):
            start = time.perf_counter()
            if rng.random() < 0.03:
                attack = rng.choice(QUIET_ATTACKS)
                name, problem = attack.__name__, attack(Target.of(url), rng)
            elif rng.random() < 0.1:
                name, problem = "hung up", hang_up(url, calls[rng.randrange(6)], rng)
            else:
                call = rng.choice(calls)
                name, problem = call.name, check(client, call)
            record.add(name, time.perf_counter() - start, problem)


def check(client: httpx2.Client, call: Call) -> str | None:
    """None, or what is wrong with the reply."""
    try:
        reply = client.request(call.method, call.path, **call.arguments)
    except httpx2.HTTPError as error:
        return repr(error)
    if reply.status_code != call.status:
        return f"status {reply.status_code}, expected {call.status}: {reply.text[:200]}"
    if isinstance(call.expected, bytes) and reply.content != call.expected:
        return f"{len(reply.content)} bytes differ from the expected {len(call.expected)}"
    if isinstance(call.expected, str) and reply.json()["error"]["code"] != call.expected:
        return f"code {reply.json()['error']['code']}, expected {call.expected}"
    return None


def hang_up(url: str, call: Call, rng: random.Random) -> str | None:
    """Sends some or all of a request, and leaves without the reply."""
    request = httpx2.Request(call.method, url + call.path, files=call.arguments["files"])
    body = request.read()
    head = f"{call.method} {call.path} HTTP/1.1\r\n" + "".join(
        f"{k}: {v}\r\n" for k, v in request.headers.items()
    )
    whole = head.encode() + b"\r\n" + body
    part = whole if rng.random() < 0.5 else whole[: rng.randrange(len(whole))]
    parts = urlsplit(url)
    with (
        contextlib.suppress(OSError),
        socket.create_connection((parts.hostname, parts.port), 10) as connection,
    ):
        connection.sendall(part)
        time.sleep(rng.uniform(0, 0.05))
    return None


def report_progress(record: Record, samples: list[tuple[float, dict[str, float]]], output: Path) -> None:
    progress = {
        "minutes": round(samples[-1][0] / 60, 1),
        "requests": record.replies.total(),
        **samples[-1][1],
    }
    output.with_suffix(".progress").write_text(json.dumps(progress | {"wrong": record.wrong[:5]}) + "\n")


def summary(
    record: Record, samples: list[tuple[float, dict[str, float]]], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Memory is compared as means over the first and the last tenth after the warm-up."""
    settled = [sample for age, sample in samples if age >= min(WARM_UP_S, samples[-1][0] / 4)]
    tenth = max(1, len(settled) // 10)
    first, last = ([s["rss_mb"] for s in part] for part in (settled[:tenth], settled[-tenth:]))
    early, late = sum(first) / len(first), sum(last) / len(last)
    growth = late - early
    leaked = samples[-1][1]["descriptors"] - samples[0][1]["descriptors"]
    flat = growth <= max(GROWTH_MB, GROWTH_SHARE * early)
    return {
        **machine(),
        "minutes": round(samples[-1][0] / 60, 1),
        "size": arguments.size,
        "requests": record.replies.total(),
        "wrong": len(record.wrong),
        "wrong_examples": record.wrong[:10],
        "by_call": dict(sorted(record.replies.items())),
        "p50_ms": round(percentile(record.seconds, 0.5) * 1000, 1),
        "p99_ms": round(percentile(record.seconds, 0.99) * 1000, 1),
        "rss_mb_first_tenth": round(early, 1),
        "rss_mb_last_tenth": round(late, 1),
        "rss_mb_most": max(sample["rss_mb"] for sample in settled),
        "decoders_mb_end": settled[-1]["decoders_mb"],
        "descriptors_first_and_last": [s["descriptors"] for _, s in (samples[0], samples[-1])],
        "descriptors_most": max(sample["descriptors"] for sample in settled),
        "threads_end": settled[-1]["threads"],
        "passed": not record.wrong and flat and leaked <= arguments.callers,
    }


if __name__ == "__main__":
    main()
