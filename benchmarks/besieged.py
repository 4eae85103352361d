"""Each attack against a server of its own: is the caller cut off, and do the others hardly notice?

The engine has no weights: what is attacked is the gateway. /healthz is asked all the time. An attack passes
if the server takes it as it should, health came within --health-ms (99 of 100), the memory is back within 5 %
afterwards, and nobody is inside any more. Then come servers that are broken inside: no decoder process can
start, the processes answer garbage, the engine hangs. They must say so at /readyz, and answer 503 or 504.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
from attacks import ATTACKS, PATIENCE_S, Health, Siege, Target, ask, decoded_slowly
from hostile import file
from serving import FAKE_SERVER, ServerProcess, machine, report, usage

#: Short, so that what an attack holds is seen to go.
SETTINGS: dict[str, Any] = {
    "write_timeout_s": 2,
    "body_timeout_s": 4,
    "header_timeout_s": 3,
    "keep_alive_s": 5,
}


def inside(url: str) -> float:
    text = httpx2.get(f"{url}/metrics", timeout=PATIENCE_S).text
    found = re.search(r"^mcjepa_requests_in_flight (\S+)", text, re.MULTILINE)
    return float(found[1]) if found else float("nan")


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return condition()


def besieged(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One attack for --seconds on a server of its own."""
    with ServerProcess(fake=True, **SETTINGS) as server:
        target, rng = Target.of(server.url), random.Random(arguments.seed)
        for _ in range(20):
            ask(target, decoded_slowly(), 200)
        time.sleep(6)
        wrong: list[str] = []
        before, most, count = usage(server.pid), 0.0, 0
        end = time.monotonic() + arguments.seconds
        with Health(server.url) as health, contextlib.ExitStack() as stack:
            siege = stack.enter_context(SIEGES[name](target)) if name in SIEGES else None
            while time.monotonic() < end:
                if siege is None:
                    wrong += filter(None, [ATTACKS[name](target, rng)])
                    count += 1
                else:
                    time.sleep(0.2)
                    count = siege.opened
                most = max(most, usage(server.pid)["rss_mb"])
        if not wait_until(lambda: inside(server.url) == 0, 10):
            wrong.append("somebody is still inside")
        time.sleep(12)  # kept connections end by themselves, and the server gives memory back
        after = usage(server.pid)
    times, growth = health.figures(), after["rss_mb"] / before["rss_mb"] - 1
    return {
        "count": count,
        "wrong": wrong[:5],
        "health_ms": times,
        "rss_mb_before_most_after": [before["rss_mb"], most, after["rss_mb"]],
        "descriptors": [before["descriptors"], after["descriptors"]],
        "passed": not wrong and times["p99"] <= arguments.health_ms and growth <= 0.05,
    }


SIEGES: dict[str, Callable[[Target], Siege]] = {
    "unread_replies": lambda target: Siege(target, unread=6),
    "slow_uploads": lambda target: Siege(target, slow=20),
    "idle_connections": lambda target: Siege(target, idle=400),
}


#: FAKE_SERVER with something broken; SIGUSR1 makes the engine hang.
BROKEN_SERVER = FAKE_SERVER.replace(
    "    sys.exit(",
    """    import os, signal
    engine = FakeEngine()
    signal.signal(signal.SIGUSR1, lambda *_: setattr(engine, "fault", "hang"))
    sys.executable = os.environ.get("MCJEPA_BROKEN_PYTHON", sys.executable)
    sys.exit(""",
).replace("create_app(settings, FakeEngine())", "create_app(settings, engine)")
GARBAGE = """#!/bin/bash
for file in /proc/$$/fd/*; do
  head -c 100000 /dev/urandom 2>/dev/null >&"${file##*/}"
done
sleep 1
"""


@contextlib.contextmanager
def broken_server(**settings: Any) -> Iterator[ServerProcess]:
    """One that need not get ready."""
    server = ServerProcess(fake=True, script=BROKEN_SERVER, **settings)
    try:
        yield server
    finally:
        server.stop()


def without_decoders(python: str) -> dict[str, Any]:
    """What a server says whose decoder processes are started with this in place of Python."""
    with (
        broken_server(broken_python=python, readiness_interval_s=0.5) as server,
        Health(server.url) as health,
    ):
        unready = wait_until(lambda: httpx2.get(f"{server.url}/readyz").status_code == 503, 15)
        replies = [httpx2.post(f"{server.url}/v1/flow", files=pair(), timeout=60) for _ in range(5)]
        alive = server.process.poll() is None
    statuses = {reply.status_code for reply in replies}
    return {
        "ready_says_503": unready,
        "statuses": sorted(statuses),
        "health_ms": health.figures(),
        "passed": unready and alive and statuses == {503},
    }


def hanging_engine() -> dict[str, Any]:
    """The engine hangs from one moment on: requests end, readiness is off, and at last liveness."""
    settings: dict[str, Any] = {"request_timeout_s": 1, "canary_interval_s": 1, "readiness_interval_s": 0.5}
    with ServerProcess(fake=True, script=BROKEN_SERVER, **settings) as server:
        server.process.send_signal(signal.SIGUSR1)
        statuses = {
            httpx2.post(f"{server.url}/v1/flow", files=pair(), timeout=60).status_code for _ in range(5)
        }
        unready = wait_until(lambda: httpx2.get(f"{server.url}/readyz").status_code == 503, 15)
        dead = wait_until(lambda: httpx2.get(f"{server.url}/healthz").status_code == 503, 60)
    return {
        "statuses": sorted(statuses),
        "ready_says_503": unready,
        "health_says_503": dead,
        "passed": statuses <= {503, 504} and unready and dead,
    }


def pair() -> dict[str, tuple[str, bytes]]:
    return {name: ("f", file("PNG")) for name in ("frame1", "frame2")}


def broken() -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        garbage = Path(folder) / "python"
        garbage.write_text(GARBAGE)
        garbage.chmod(0o700)
        return {
            "decoders that cannot start": without_decoders("/nonexistent/python"),
            "decoders that answer garbage": without_decoders(str(garbage)),
            "an engine that hangs": hanging_engine(),
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20, help="of each attack, default %(default)g")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help=f"of {', '.join([*ATTACKS, *SIEGES])}, broken"
    )
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--health-ms", type=float, default=100, help="default %(default)g")
    parser.add_argument("--output", type=Path, metavar="FILE", help="keep the figures as JSON")
    arguments = parser.parse_args()
    chosen = arguments.only or [*ATTACKS, *SIEGES, "broken"]
    results: dict[str, dict[str, Any]] = {}
    for name in chosen:
        results |= broken() if name == "broken" else {name: besieged(name, arguments)}
        print(json.dumps({name: results.get(name)}), file=sys.stderr, flush=True)
    passed = all(result["passed"] for result in results.values())
    report({**machine(), "attacks": results, "passed": passed}, arguments.output)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
