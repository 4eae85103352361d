"""A hundred thousand broken requests over HTTP: is every answer one of ours, and does the memory come back?

Requests are valid ones, damaged: image bytes, multipart structure, JSON, query, headers, and the bytes on the
wire themselves; the files of hostile.py; and the attacks of attacks.py, while other connections do not read
their replies, send a byte a second or nothing. The server has an engine without weights (what is attacked is
the gateway), decoder processes, and its default limits but for times. A reply passes if its status is neither
500 nor 502, if an error is problem+json with our members, and if it came within --patience seconds.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import math
import random
import socket
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from attacks import ATTACKS, Health, Siege, Target
from hostile import BOUNDARY, file, images, multipart, mutate
from serving import ServerProcess, machine, report, usage

MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"
ATTACKED = 0.005  # of the requests
#: Seconds, so that what is held is seen to go.
TIMES: dict[str, Any] = {"keep_alive_s": 5, "write_timeout_s": 5, "body_timeout_s": 10}
WARM_UP = 0.05  # of the requests, before memory is read for the first time
QUIET_S = 12  # before it is read: kept connections end by themselves, and the server gives memory back
FORBIDDEN = {500, 502}
QUERIES = {
    "format": ["flo", "kitti", "npy", "npz", "png", "json", "exe", "", "\0", "é" * 50],
    "direction": ["forward", "backward", "both", "up"],
    "occlusion": ["true", "false", "maybe"],
    "max_side": ["64", "8192", "0", "-1", "1e9", "NaN", "9" * 400],
    "max_flow": ["1", "0", "inf", "nan", "-5", "1e-300"],
    "unknown": ["1"],
}
HEADERS = {
    "Accept": ["*/*", "image/png", "application/json", ";q=", "a/b;q=x, */*;q=0", "," * 500],
    "X-Request-ID": ["a" * 200, "ok", "\x7f", "é"],
    "X-Request-Timeout": ["5", "0", "-1", "nan", "1e400", "soon"],
    "traceparent": ["00-" + "0" * 32 + "-" + "0" * 16 + "-00", "junk", "é"],
    "Content-Length": ["0", "5", "999999999999", "-1", "x"],
    "Authorization": ["Bearer x", "Basic ===", "é"],
    "Expect": ["100-continue"],
}
VALUES: list[Any] = [
    None,
    0,
    -1,
    1e308,
    True,
    "",
    "x",
    "data:",
    "data:image/png;base64,",
    [],
    {},
    [[]],
    {"image": 1},
]


class Fuzzer:
    """One caller with a random generator of its own, so that a run can be repeated by its seed."""

    def __init__(self, url: str, seed: int, patience: float) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "", parts.port or 0
        self.rng = random.Random(seed)
        self.patience = patience
        self.hostile = list(images().values())
        self.valid = [file("PNG"), file("JPEG"), file("WEBP"), file("BMP"), file("PPM")]
        self.connection = http.client.HTTPConnection(self.host, self.port, timeout=patience)

    def step(self) -> tuple[str, str | None]:
        """The kind of outcome, and what is wrong with it, if anything."""
        if self.rng.random() < ATTACKED:
            return self.attack()
        if self.rng.random() < 0.02:
            return self.raw()
        method, path, body, headers = self.request()
        try:
            self.connection.request(method, path, body, headers)
            reply = self.connection.getresponse()
            return str(reply.status), complaint(reply, reply.read())
        except TimeoutError:
            self.connection.close()
            return "no reply", f"no reply within {self.patience:g} s: {method} {path[:100]} {headers}"
        except (OSError, http.client.HTTPException, ValueError, UnicodeError):
            self.connection.close()  # a length that was a lie, or a request that cannot even be sent
            return "closed", None

    def attack(self) -> tuple[str, str | None]:
        name = self.rng.choice(list(ATTACKS))
        try:
            wrong = ATTACKS[name](Target(self.host, self.port), self.rng)
        except OSError as error:
            return f"attack {name}", f"attack {name}: {error!r}"
        return f"attack {name}", wrong and f"attack {name}: {wrong}"

    def request(self) -> tuple[str, str, bytes, dict[str, str]]:
        rng = self.rng
        path = rng.choice(("/v1/flow", "/v1/flow", "/v1/analyze", "/v1/embeddings", "/v1/embeddings"))
        if rng.random() < 0.03:
            path = rng.choice(
                ("/", "/v1/info", "/v1/models/" + quote(rng.randbytes(6)), "/..%2f..%2fetc/passwd", "/%00")
            )
        as_json = path == "/v1/embeddings" and rng.random() < 0.6
        body = self.json_body() if as_json else self.form_body(path)
        headers = {"Content-Type": "application/json" if as_json else MULTIPART}
        if rng.random() < 0.2:
            body = mutate(body, rng)
        if rng.random() < 0.2:
            name = rng.choice(list(HEADERS))
            headers[name] = rng.choice(HEADERS[name])
        if rng.random() < 0.05:
            headers["Content-Type"] = rng.choice(
                ("", "text/plain", "multipart/form-data", MULTIPART + "x" * 300, "\xff")
            )
        method = "POST" if rng.random() < 0.97 else rng.choice(("GET", "PUT", "HEAD", "OPTIONS", "BREW"))
        return method, path + self.query(), body, headers

    def query(self) -> str:
        if self.rng.random() < 0.5:
            return ""
        names = self.rng.sample(list(QUERIES), self.rng.randrange(1, 3))
        return "?" + "&".join(f"{name}={quote(self.rng.choice(QUERIES[name]))}" for name in names)

    def image(self) -> bytes:
        choice = self.rng.random()
        if choice < 0.1:
            return self.rng.choice(self.hostile)
        data = self.rng.choice(self.valid)
        return data if choice < 0.4 else mutate(data, self.rng)

    def form_body(self, path: str) -> bytes:
        names = {"/v1/flow": ["frame1", "frame2"], "/v1/analyze": ["frames"] * self.rng.randrange(1, 5)}
        chosen = names.get(path, ["images"] * self.rng.randrange(1, 3))
        if self.rng.random() < 0.1:
            chosen = [*chosen, self.rng.choice(("frame1", "model", "", "x" * 300, '"; a="'))]
        return multipart([(name, self.image()) for name in chosen])

    def json_body(self) -> bytes:
        item = base64.b64encode(self.image()).decode()
        document: Any = {
            "input": self.rng.choice((item, [item], {"image": item}, f"data:image/png;base64,{item}"))
        }
        if self.rng.random() < 0.4:
            document[self.rng.choice(("input", "model", "dimensions", "encoding_format", "x"))] = (
                self.rng.choice(VALUES)
            )
        if self.rng.random() < 0.05:
            return b"[" * 10**5
        return json.dumps(document).encode()

    def raw(self) -> tuple[str, str | None]:
        """Bytes that may be no HTTP at all, on a connection of their own."""
        _, path, body, headers = self.request()
        lines = [
            f"POST {path} HTTP/1.1",
            "Host: x",
            *(f"{k}: {v}" for k, v in headers.items()),
            f"Content-Length: {len(body)}",
        ]
        wire = mutate("\r\n".join(lines).encode("utf-8", "replace") + b"\r\n\r\n" + body, self.rng)
        try:
            with socket.create_connection((self.host, self.port), self.patience) as connection:
                connection.sendall(wire)
                connection.shutdown(socket.SHUT_WR)
                head = connection.recv(100)
        except TimeoutError:
            return "no reply", "no reply to raw bytes"
        except OSError:
            return "raw closed", None
        status = int(head[9:12]) if head[9:12].isdigit() else 0
        return f"raw {status or 'closed'}", f"raw bytes got {status}" if status in FORBIDDEN else None


def complaint(reply: http.client.HTTPResponse, body: bytes) -> str | None:
    """What is wrong with a reply; None if it may be sent."""
    if reply.status in FORBIDDEN:
        return f"{reply.status}: {body[:300]!r}"
    if reply.status < 400 or not body:  # HEAD has none
        return None
    if b"Invalid HTTP request received." in body:
        return None
    try:
        problem = json.loads(body)
        if problem["status"] == reply.status and problem["error"]["code"] and problem["detail"]:
            return "a stack trace" if "Traceback" in problem["detail"] else None
    except (ValueError, KeyError, TypeError):
        pass
    return f"{reply.status} is no problem of ours: {body[:200]!r}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=100_000, help="default %(default)s")
    parser.add_argument("--callers", type=int, default=4, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--patience", type=float, default=60, help="seconds for a reply, default %(default)g")
    parser.add_argument("--minutes", type=float, default=600, help="end after this long, default %(default)g")
    parser.add_argument("--port", type=int, default=0, help="default a free one")
    parser.add_argument("--output", type=Path, metavar="FILE", help="keep the figures as JSON")
    arguments = parser.parse_args()
    with ServerProcess(fake=True, port=arguments.port, **TIMES) as server:
        figures = fuzz(server, arguments)
    report(figures, arguments.output)
    sys.exit(0 if figures["passed"] else 1)


def fuzz(server: ServerProcess, arguments: argparse.Namespace) -> dict[str, Any]:
    """Memory is read twice in the same state: after the warm-up and at the end, nobody asking for a while."""
    run = Run(server, arguments)
    run.until(math.ceil(WARM_UP * arguments.requests))
    before = usage(server.pid)
    run.until(arguments.requests)
    alive = server.process.poll() is None
    after = usage(server.pid) if alive else {"rss_mb": float("inf")}
    growth = after["rss_mb"] / before["rss_mb"] - 1
    return {
        **machine(),
        "requests": run.outcomes.total(),
        "seconds": round(run.seconds),
        "outcomes": dict(sorted(run.outcomes.items())),
        "wrong": len(run.wrong),
        "wrong_examples": run.wrong[:10],
        "server_alive": alive,
        "before": before,
        "after": after,
        "most_mb": max(rss for _, rss in run.course),
        "course_mb": run.course[:: max(1, len(run.course) // 40)],  # [requests, resident under load]
        "memory_growth": round(growth, 4),
        "health_ms": run.health.figures(),
        "passed": alive and not run.wrong and growth <= 0.05,
    }


class Run:
    """Callers at work against one server, in stretches between which it is left alone."""

    def __init__(self, server: ServerProcess, arguments: argparse.Namespace) -> None:
        self.server = server
        self.arguments = arguments
        self.fuzzers = [
            Fuzzer(server.url, arguments.seed + index, arguments.patience)
            for index in range(arguments.callers)
        ]
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.course: list[tuple[int, float]] = []
        self.seconds = 0.0
        self.health = Health(server.url)
        self._lock = threading.Lock()

    def until(self, requests: int) -> None:
        """Until so many requests were made since the start, or the time is over, or the server is dead."""
        stop = threading.Event()
        threads = [threading.Thread(target=self._work, args=(fuzzer, stop)) for fuzzer in self.fuzzers]
        start = time.monotonic()
        with Siege(Target.of(self.server.url), unread=3, slow=5, idle=100), self.health:
            self._attend(threads, start, requests, stop)
        self.seconds += time.monotonic() - start
        time.sleep(QUIET_S)

    def _attend(
        self, threads: list[threading.Thread], start: float, requests: int, stop: threading.Event
    ) -> None:
        for thread in threads:
            thread.start()
        while self.outcomes.total() < requests and self.server.process.poll() is None:
            spent = self.seconds + time.monotonic() - start
            if spent > self.arguments.minutes * 60:
                break
            stop.wait(1)
            self._note(round(spent))
        stop.set()
        for thread in threads:
            thread.join()

    def _work(self, fuzzer: Fuzzer, stop: threading.Event) -> None:
        while not stop.is_set():
            outcome, problem = fuzzer.step()
            with self._lock:
                self.outcomes[outcome] += 1
                if problem is not None:
                    self.wrong.append(problem[:400])

    def _note(self, seconds: int) -> None:
        used = usage(self.server.pid)
        self.course.append((self.outcomes.total(), used["rss_mb"]))
        if self.arguments.output:
            progress = {
                "requests": self.outcomes.total(),
                "seconds": seconds,
                "wrong": self.wrong[:5],
                **used,
            }
            self.arguments.output.with_suffix(".progress").write_text(json.dumps(progress) + "\n")


if __name__ == "__main__":
    main()
