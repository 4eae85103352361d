"""Embeddings over HTTP: the gateway beside a bare FastAPI endpoint around the same file, asked in turn."""

from __future__ import annotations

import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
from common import Uint8Array, rounded
from gateways import Request, load, middle
from servers import HERE, Running, commands, start

SIDE = 224  # px of the images, of which the model sees 128
TURNS = 5
BARE = "bare FastAPI"
FORM = {"encoding_format": "base64"}  # numbers as text take longer; the peer does not ask
LOADS = {"1 client, 1 image": (1, 1), "8 clients, 1 image": (8, 1), "1 client, 32 images": (1, 32)}


def measure(repository: Path, frame: Uint8Array, threads: int, each: int) -> dict[str, Any]:
    """Of each load and server what `each` requests or more took, that with the median p50 of `TURNS`, and the
    gateway's rate over that of the other, the median."""
    image = encode_jpeg(frame)
    bare = [sys.executable, str(HERE / "bare_embeddings.py"), str(repository), str(threads)]
    wanted = {"gateway": commands(repository, threads)["gateway"], BARE: bare}
    found = {}
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(start(command, repository, threads)) for name, command in wanted.items()
        }
        for name, (clients, images) in LOADS.items():
            request = Request("/v1/embeddings", [("images", image)] * images, FORM)
            found[name] = beside(servers, request, clients, max(each, 2 * clients))
    return found


def beside(servers: dict[str, Running], request: Request, clients: int, requests: int) -> dict[str, Any]:
    """What both took, in turn, and the ratio of their rates."""
    turns = [
        {name: load(server, request, clients, requests) for name, server in servers.items()}
        for _ in range(TURNS + 1)
    ][1:]  # the first warms up
    ratio = statistics.median(turn["gateway"]["per_s"] / turn[BARE]["per_s"] for turn in turns)
    return {name: middle([turn[name] for turn in turns]) for name in servers} | {"ratio": rounded(ratio)}


def encode_jpeg(frame: Uint8Array) -> bytes:
    """The middle of a frame, scaled to SIDE x SIDE."""
    height, width = frame.shape[:2]
    start = (width - height) // 2
    square = cv2.resize(frame[:, start : start + height], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(square, cv2.COLOR_RGB2BGR))
    return data.tobytes()
