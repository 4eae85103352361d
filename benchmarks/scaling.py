"""Gateways behind HAProxy: throughput by their number, what a request costs, and what a restart loses.

Each gateway has an engine without weights. Workers: it takes --latency seconds for a pair and one pair at a
time, as a GPU elsewhere would, so that N gateways can answer N / latency pairs a second, and the efficiency
is the share of N times the rate of one. Limit: it takes no time, so what is used is the gateway's own:
requests for each second of processor time of the gateways, decoders included. Restarts: four workers are told
to stop and started again, one after the other, under load; every request counts that does not get its flow.

Callers and balancer run on the same machine; HAProxy has the configuration of deploy/haproxy.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hostile import BOUNDARY, multipart
from serving import ROOT, ServerProcess, frames, machine, percentile, report

HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
TIMEOUT = 120.0  # s
SLOW_SERVER = """
import asyncio, sys
if __name__ == "__main__":
    from mcjepa_server import Settings, create_app
    from mcjepa_server.cli import serve
    from mcjepa_server.engines.fake import FakeEngine
    class SlowEngine(FakeEngine):
        async def infer_flow(self, frames, backward, embed=True, quality="fast"):
            await asyncio.sleep(LATENCY)
            return await super().infer_flow(frames, backward, embed, quality)
    settings = Settings()
    sys.exit(serve(settings, create_app(settings, SlowEngine())))
"""


def main() -> None:
    arguments = parse_arguments()
    if shutil.which("haproxy") is None:
        sys.exit("HAProxy is not installed: apt-get install haproxy")
    width, height = map(int, arguments.size.split("x"))
    pair = frames(width, height)
    body = multipart([("frame1", pair[0]), ("frame2", pair[1])])
    figures: dict[str, Any] = {**machine(), "size": arguments.size, "latency_s": arguments.latency}
    seconds = arguments.seconds
    figures["workers"] = with_efficiency(
        [measure(body, number, arguments.latency, seconds) for number in arguments.workers]
    )
    figures["limit"] = [measure(body, number, 0.0, seconds) for number in arguments.workers]
    figures["restarts"] = restarts(body, arguments.latency)
    report(figures, arguments.output)
    runs = (*figures["workers"], *figures["limit"], figures["restarts"])
    sys.exit(1 if any(run["lost"] for run in runs) else 0)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("--workers", type=int, nargs="+", default=[1, 2, 4], metavar="N", help="default 1 2 4")
    option("--latency", type=float, default=0.25, metavar="S", help="of the engine, default %(default)g")
    option("--seconds", type=float, default=15, help="of each measurement, default %(default)g")
    option("--size", default="640x360", metavar="WxH", help="of frames, default %(default)s")
    option("--output", type=Path, metavar="FILE", help="keep the figures as JSON")
    return parser.parse_args()


class Load:
    """Callers, each with a connection of its own, that ask until the end of `with`."""

    def __init__(self, url: str, body: bytes, callers: int) -> None:
        self.answered = 0
        self.lost: Counter[str] = Counter()  # by what came instead
        self.times: list[float] = []  # s
        self._parts, self._body = urlsplit(url), body
        self._over, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._call) for _ in range(callers)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        connection = http.client.HTTPConnection(self._parts.hostname or "", self._parts.port, timeout=TIMEOUT)
        while not self._over.is_set():
            began = time.monotonic()
            problem = self._ask(connection)
            with self._lock:
                if problem:
                    self.lost[problem] += 1
                else:
                    self.times.append(time.monotonic() - began)
                    self.answered += 1
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> str:
        """What came in place of a whole flow, or ""."""
        try:
            connection.request("POST", "/v1/flow", self._body, HEADERS)
            reply = connection.getresponse()
            content = reply.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return type(error).__name__
        whole = len(content) == int(reply.headers["content-length"])
        return "" if reply.status == 200 and whole else str(reply.status)


def measure(body: bytes, number: int, latency: float, seconds: float) -> dict[str, Any]:
    """Rate and cost with so many gateways, three callers each."""
    with cluster(number, latency) as (url, gateways, balancer), Load(url, body, 3 * number) as load:
        time.sleep(2)  # until all are at work
        done, gate, middle = load.answered, used(gateways), processor_seconds(balancer)
        began = time.monotonic()
        time.sleep(seconds)
        answered, took = load.answered - done, time.monotonic() - began
        gate, middle = used(gateways) - gate, processor_seconds(balancer) - middle
    return {
        "gateways": number,
        "requests_per_s": round(answered / took, 2),
        "lost": dict(load.lost),
        "p50_ms": round(1000 * percentile(load.times, 0.5)),
        "p99_ms": round(1000 * percentile(load.times, 0.99)),
        "requests_per_gateway_core_s": round(answered / gate, 1),
        "gateway_cpu_ms": round(1000 * gate / max(1, answered), 1),
        "balancer_cpu_ms": round(1000 * middle / max(1, answered), 2),
    }


def with_efficiency(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    per_gateway = runs[0]["requests_per_s"] / runs[0]["gateways"]
    return [
        run | {"efficiency": round(run["requests_per_s"] / run["gateways"] / per_gateway, 2)} for run in runs
    ]


def restarts(body: bytes, latency: float, number: int = 4) -> dict[str, Any]:
    """A rolling restart under load."""
    with cluster(number, latency) as (url, gateways, _), Load(url, body, 3 * number) as load:
        codes = []
        for gateway in gateways:
            codes.append(gateway.stop())
            time.sleep(1)
            gateway.restart()
            time.sleep(2)
    return {"restarted": number, "exit_codes": codes, "answered": load.answered, "lost": dict(load.lost)}


class Gateway:
    """A gateway on a port that stays its own."""

    def __init__(self, port: int, latency: float) -> None:
        self._port = port
        self._script = SLOW_SERVER.replace("LATENCY", repr(latency))
        self.restart()

    def restart(self) -> None:
        self.process = ServerProcess(
            fake=True,
            script=self._script,
            port=self._port,
            max_concurrency=1,
            max_queue_wait_s=60,
            decode_processes=1,
        )
        self.process.wait_until_ready()

    def stop(self) -> int:
        return self.process.stop()


@contextmanager
def cluster(number: int, latency: float) -> Iterator[tuple[str, list[Gateway], int]]:
    """Address, gateways, and the process id of the balancer."""
    port, *ports = free_ports(1 + number)
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        gateways = []
        for one in ports:
            gateways.append(Gateway(one, latency))
            stack.callback(gateways[-1].stop)
        config = Path(folder, "haproxy.cfg")
        config.write_text(configuration(port, ports))
        balancer = subprocess.Popen(["haproxy", "-db", "-f", str(config)], stderr=subprocess.DEVNULL)
        stack.callback(end, balancer)
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: is_ready(port))
        yield url, gateways, balancer.pid


def configuration(port: int, gateways: Sequence[int]) -> str:
    """That of deploy/, for these ports of this machine."""
    members = "".join(f"    server gateway{i} 127.0.0.1:{one}\n" for i, one in enumerate(gateways))
    text = (ROOT / "deploy/haproxy/haproxy.cfg").read_text().replace("bind :8080", f"bind 127.0.0.1:{port}")
    return re.sub(r"(    server \S+ \S+\n)+", members, text)


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(TIMEOUT)


def free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"the balancer was not ready within {TIMEOUT:g} s")
        time.sleep(0.1)


def used(gateways: Sequence[Gateway]) -> float:
    """Processor seconds of the gateways and their decoders so far."""
    total = 0.0
    for gateway in gateways:
        pid = gateway.process.pid
        children = Path(f"/proc/{pid}/task").glob("*/children")
        own = {int(child) for path in children for child in path.read_text().split()}
        total += processor_seconds(pid) + sum(map(processor_seconds, own))
    return total


def processor_seconds(pid: int) -> float:
    """Used so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(value) for value in fields[11:13]) / os.sysconf("SC_CLK_TCK")  # utime, stime


if __name__ == "__main__":
    main()
