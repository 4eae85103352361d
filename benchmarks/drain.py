"""kill -TERM under load: is every accepted request answered, and in which order does the server close?

Callers send requests without a pause, each on a connection of its own. In the first round they stop, as
those behind a balancer do, once /readyz says 503; then no request may be lost. In the second they go on until
nobody listens: what is cut off then was never accepted, and is counted apart. In both, other connections do
not read their replies, send a byte a second or nothing. The exit code is 1 if a request was lost in the first
round, or the server did not end with 0.
"""

from __future__ import annotations

import argparse
import http.client
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attacks import Siege, Target
from hostile import BOUNDARY, multipart
from serving import ServerProcess, frames, machine, report

HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Connection": "close"}


class Round:
    """One server, its callers, and its end."""

    def __init__(self, body: bytes, heed_readiness: bool, port: int) -> None:
        self.body, self.heed_readiness = body, heed_readiness
        self.outcomes: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.unready, self.refused, self.signalled = threading.Event(), threading.Event(), threading.Event()
        self.unready_after = float("nan")
        self.server = ServerProcess(
            port=port, engine="onnxruntime", intra_op_threads=1, drain_delay_s=2, max_queue_wait_s=60,
            write_timeout_s=5, body_timeout_s=10,
        )  # fmt: skip

    def run(self, callers: int, seconds: float) -> dict[str, Any]:
        with self.server, Siege(Target.of(self.server.url), unread=2, slow=3, idle=50):
            threads = [threading.Thread(target=self.call) for _ in range(callers)]
            prober = threading.Thread(target=self.probe)
            for thread in (*threads, prober):
                thread.start()
            time.sleep(seconds)
            start = time.monotonic()
            self.signalled.set()
            code = self.server.stop(signal.SIGTERM)
            took = time.monotonic() - start
            self.refused.set()
            for thread in (*threads, prober):
                thread.join()
        return {
            "heeding_readiness": self.heed_readiness,
            "outcomes": dict(sorted(self.outcomes.items())),
            "readiness_off_after_s": round(self.unready_after, 2),
            "ended_after_s": round(took, 1),
            "exit_code": code,
        }

    def call(self) -> None:
        while not self.refused.is_set() and not (self.heed_readiness and self.unready.is_set()):
            outcome = self.ask()
            with self.lock:
                self.outcomes[outcome + (" after the signal" if self.signalled.is_set() else "")] += 1

    def ask(self) -> str:
        parts = urlsplit(self.server.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        try:
            connection.connect()
        except OSError:
            self.refused.set()
            return "not connected"
        try:
            connection.request("POST", "/v1/flow", self.body, HEADERS)
            reply = connection.getresponse()
            expected = int(reply.headers["content-length"])
            return str(reply.status) if len(reply.read()) == expected else "cut off in the reply"
        except (OSError, http.client.HTTPException):
            return "cut off"
        finally:
            connection.close()

    def probe(self) -> None:
        """As a balancer does, ten times a second."""
        parts = urlsplit(self.server.url)
        start = None
        while not self.refused.wait(0.1):
            if start is None and self.signalled.is_set():
                start = time.monotonic()
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
            try:
                connection.request("GET", "/readyz")
                if connection.getresponse().status == 503 and start is not None and not self.unready.is_set():
                    self.unready_after = time.monotonic() - start
                    self.unready.set()
            except (OSError, http.client.HTTPException):
                return
            finally:
                connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--callers", type=int, default=8, help="default %(default)s")
    parser.add_argument("--seconds", type=float, default=10, help="before the signal, default %(default)g")
    parser.add_argument("--size", default="256x192", metavar="WxH", help="of frames, default %(default)s")
    parser.add_argument("--port", type=int, default=0, help="default a free one")
    parser.add_argument("--output", type=Path, metavar="FILE", help="keep the figures as JSON")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    pair = frames(width, height)
    body = multipart([("frame1", pair[0]), ("frame2", pair[1])])
    rounds = [
        Round(body, heed, arguments.port).run(arguments.callers, arguments.seconds) for heed in (True, False)
    ]
    first = rounds[0]
    lost = [name for name in first["outcomes"] if not name.startswith("200")]
    passed = not lost and all(round["exit_code"] == 0 for round in rounds)
    figures = {**machine(), "size": arguments.size, "callers": arguments.callers, "rounds": rounds}
    report({**figures, "passed": passed}, arguments.output)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
