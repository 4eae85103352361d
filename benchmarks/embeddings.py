"""Embeddings over HTTP: the gateway beside a bare FastAPI endpoint around the same file, asked in turn."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import gateways
from common import Uint8Array

SIDE = 224  # px of the images, of which the model sees 128
ROUNDS = 3
FORM = {"encoding_format": "base64"}  # numbers as text take longer; the peer does not ask
LOADS = {"1 client, 1 image": (1, 1), "8 clients, 1 image": (8, 1), "1 client, 32 images": (1, 32)}


def measure(repository: Path, frame: Uint8Array, threads: int, each: int) -> dict[str, Any]:
    """Of each server and load, `ROUNDS` measurements of `each` requests or more: that with the median p50."""
    image = encode_jpeg(frame)
    bare = [sys.executable, str(gateways.HERE / "bare_embeddings.py"), str(repository), str(threads)]
    servers = {"gateway": gateways.commands(repository, threads)["gateway"], "bare FastAPI": bare}
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(gateways.start(command, repository, threads))
            for name, command in servers.items()
        }
        return {
            name: dict(zip(LOADS, rows, strict=True))
            for name, rows in _measured(running, image, each).items()
        }


def _measured(
    running: dict[str, gateways.Running], image: bytes, each: int
) -> dict[str, list[dict[str, Any]]]:
    """Of each server a row for each load."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in running}
    for clients, images in LOADS.values():
        request = gateways.Request("/v1/embeddings", [("images", image)] * images, FORM)
        turns = [
            {
                name: gateways.load(one, request, clients, max(each, 2 * clients))
                for name, one in running.items()
            }
            for _ in range(ROUNDS + 1)
        ][1:]  # the first warms up
        for name, rows in found.items():
            rows.append(sorted((turn[name] for turn in turns), key=lambda row: row["p50"])[ROUNDS // 2])
    return found


def encode_jpeg(frame: Uint8Array) -> bytes:
    """The middle of a frame, scaled to SIDE x SIDE."""
    height, width = frame.shape[:2]
    start = (width - height) // 2
    square = cv2.resize(frame[:, start : start + height], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(square, cv2.COLOR_RGB2BGR))
    return data.tobytes()
