"""What the reliability benchmarks share: a server in a process, what it uses, and pictures to send."""

from __future__ import annotations

import json
import os
import platform
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import httpx2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
LISTENING = re.compile(rb"Uvicorn running on (http://[^\s\"]+)")
READY_S = 300.0

#: A gateway on the engine without weights, for runs that are about the gateway alone.
FAKE_SERVER = """
import sys
if __name__ == "__main__":
    from mcjepa_server import Settings, create_app
    from mcjepa_server.cli import serve
    from mcjepa_server.engines.fake import FakeEngine
    settings = Settings()
    sys.exit(serve(settings, create_app(settings, FakeEngine())))
"""


class ServerProcess:
    """mcjepa-server on a free port (or the given one) in a process of its own, ready to serve."""

    def __init__(
        self, *, fake: bool = False, script: str = FAKE_SERVER, port: int = 0, **settings: object
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MCJEPA_")}
        environment |= {f"MCJEPA_{name.upper()}": str(value) for name, value in settings.items()}
        environment |= {"MCJEPA_PORT": str(port)}
        if fake:
            file = Path(self._folder.name) / "fake_server.py"
            file.write_text(script)
            command = [sys.executable, str(file)]
        else:
            environment.setdefault("MCJEPA_MODEL_REPOSITORY", str(ROOT / "model_repository"))
            command = [sys.executable, "-m", "mcjepa_server"]
        self.log = Path(self._folder.name) / "log"
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        self._found: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self._wait_for_url()

    def _wait_for_url(self) -> str:
        try:
            url = self._found.get(timeout=READY_S)
        except queue.Empty:
            url = ""
        if not url:
            self.process.kill()
            sys.exit(f"the server does not listen:\n{self.log.read_text()}")
        return url

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until_ready(self) -> None:
        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            try:
                if httpx2.get(f"{self.url}/readyz", timeout=5).status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            time.sleep(0.1)
        self.process.kill()
        sys.exit(f"the server was not ready within {READY_S:g} s:\n{self.log.read_text()[-2000:]}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout=120)
        self._reader.join(timeout=10)
        return code

    def __enter__(self) -> Self:
        self.wait_until_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._folder.cleanup()

    def _read(self) -> None:
        """Keeps the log, so that the process never waits for someone to read it."""
        assert self.process.stderr is not None
        with self.process.stderr as lines, self.log.open("wb") as log:
            for line in lines:
                log.write(line)
                log.flush()
                if found := LISTENING.search(line):
                    self._found.put(found[1].decode())
        self._found.put("")


def usage(pid: int) -> dict[str, float]:
    """Resident memory (MB) of a process and of its children, and its open descriptors and threads."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {
        "rss_mb": memory_mb(pid),
        "decoders_mb": sum(memory_mb(int(child)) for child in children),
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": len(os.listdir(f"/proc/{pid}/task")),
    }


def memory_mb(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # a child that has just ended
        return 0.0
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return round(int(found[1]) / 1024, 1) if found else 0.0


def picture(width: int, height: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A smooth picture (height, width, 3), of which cuts can be taken as frames that move."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def frames(width: int, height: int, count: int = 2, suffix: str = ".jpg") -> list[bytes]:
    """Image files of a picture that moves by (3, 2) px a frame."""
    whole = picture(width + 3 * count, height + 2 * count)
    cuts = [whole[2 * i : 2 * i + height, 3 * i : 3 * i + width] for i in range(count)]
    return [cv2.imencode(suffix, cut)[1].tobytes() for cut in cuts]


def machine() -> dict[str, Any]:
    """What a figure is worth nothing without."""
    load = os.getloadavg()
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "cores": os.cpu_count(),
        "load_1min": round(load[0], 1),
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or "unknown",
    }


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def report(figures: dict[str, Any], output: Path | None) -> None:
    text = json.dumps(figures, indent=1)
    print(text)
    if output is not None:
        partial = output.with_name(output.name + ".part")
        partial.write_text(text + "\n")
        partial.replace(output)
