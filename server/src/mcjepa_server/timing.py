"""How long the stages of one request took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mcjepa_server import tracing


@dataclass
class Timings:
    """Seconds by stage: decode, queue, inference, encode."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to the stage."""
        start = time.perf_counter()
        try:
            with tracing.span(name):
                yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def milliseconds(self, name: str) -> float:
        return round(self.seconds.get(name, 0.0) * 1000, 1)

    def headers(self) -> dict[str, str]:
        """Server-Timing (W3C) for browsers and tools, and the two numbers that scripts want."""
        stages = ", ".join(f"{name};dur={self.milliseconds(name)}" for name in self.seconds)
        return {
            "Server-Timing": stages,
            "X-Queue-Time": str(self.milliseconds("queue")),
            "X-Inference-Time": str(self.milliseconds("inference")),
        }
