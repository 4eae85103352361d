"""The two HTTP parsers of uvicorn in turn: CPU time of the server for small requests and for large bodies.

One server runs on httptools in C, bounded by our protocol as always, the other on h11 in Python with the
settings of uvicorn. Both decode in threads and run the engine without weights, so that the gateway is what is
measured. CPU time is that of the whole server as the kernel counts it: other work hardly matters to it.
"""

from __future__ import annotations

import argparse
import http.client
import os
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from hostile import BOUNDARY, encoded, multipart
from serving import FAKE_SERVER, ServerProcess, machine, report

ON_H11 = FAKE_SERVER.replace(
    "    sys.exit(",
    """    import uvicorn
    from mcjepa_server import cli
    build = uvicorn.Config
    def on_h11(*given, **named):
        limit = settings.max_header_bytes
        return build(*given, **named | {"http": "h11", "h11_max_incomplete_event_size": limit})
    uvicorn.Config = on_h11
    sys.exit(""",
)
SERVERS = {"httptools": FAKE_SERVER, "h11": ON_H11}


def noise(width: int, height: int) -> bytes:
    return encoded(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def calls() -> dict[str, tuple[int, str, str, bytes]]:
    """How often a round, method, path, body."""
    small, junk = noise(64, 64), os.urandom(2**24)
    return {
        "GET /healthz": (100, "GET", "/healthz", b""),
        "an embedding of 64x64": (50, "POST", "/v1/embeddings", multipart([("images", small)])),
        "a flow of 64x64": (40, "POST", "/v1/flow", multipart([("frame1", small), ("frame2", small)])),
        "32 MiB that are no images": (3, "POST", "/v1/flow", multipart([("frame1", junk), ("frame2", junk)])),
    }


def cpu_ms(pid: int) -> float:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="default %(default)s")
    parser.add_argument("--output", type=Path, metavar="FILE", help="keep the figures as JSON")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(ServerProcess(fake=True, script=script, decode_processes=0))
            for name, script in SERVERS.items()
        }
        rows = {name: measure(servers, call, arguments.rounds) for name, call in calls().items()}
    report({**machine(), "cpu_ms_a_request": rows}, arguments.output)


def measure(
    servers: dict[str, ServerProcess], call: tuple[int, str, str, bytes], rounds: int
) -> dict[str, Any]:
    """Median milliseconds of each, and of the ratio within a round; the first round warms up."""
    count, method, path, body = call
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    times: dict[str, list[float]] = {name: [] for name in servers}
    connections = {}
    for name, server in servers.items():
        parts = urlsplit(server.url)
        connections[name] = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    for turn in range(rounds + 1):
        for name, server in servers.items():
            start = cpu_ms(server.pid)
            for _ in range(count):
                connections[name].request(method, path, body, headers)
                connections[name].getresponse().read()
            if turn:
                times[name].append((cpu_ms(server.pid) - start) / count)
    ratio = statistics.median(h11 / c for h11, c in zip(times["h11"], times["httptools"], strict=True))
    return {name: round(statistics.median(values), 3) for name, values in times.items()} | {
        "h11_to_httptools": round(ratio, 2)
    }


if __name__ == "__main__":
    main()
