"""Queueing of gateways before GPUs: a simulation by simpy, and Jackson's formula for the same network.

A pair comes to a gateway chosen by chance (a balancer that knows nothing), has a core for the first half of
the gateway's work, then a GPU, then a core again for the other half. Arrivals and service times are
exponential, which is worse than reality: frames of one size cost much the same.

With GPUs chosen by chance this is a Jackson network, whose mean is known exactly (J. R. Jackson, "Networks of
Waiting Lines", 1957). The gateway takes GPUs in turn, which waits less.
"""

from __future__ import annotations

import math
import random
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import simpy

_WARM_UP = 0.2  # share of the requests that fill the queues and do not count


@dataclass(frozen=True)
class Cell:
    """Gateways and GPUs that serve ``rate`` pairs a second. Times are of one pair."""

    rate: float
    gateways: int
    cores: int  # of each gateway
    gpus: int
    gateway_s: float
    gpu_s: float

    def shrunk(self, share: float) -> Cell:
        """The same load on fewer gateways and GPUs, but at least on one of each."""
        fewer = max(1, math.floor(self.gateways * share)), max(1, math.floor(self.gpus * share))
        return replace(self, gateways=fewer[0], gpus=fewer[1])


@dataclass(frozen=True)
class Latency:
    """Of the pairs that counted, ms; and the shares of time that cores and GPUs were busy."""

    gateways: int
    gpus: int
    mean_ms: float
    p50_ms: float
    p99_ms: float
    cores_busy: float
    gpus_busy: float


def expected_latency(cell: Cell) -> float:
    """Mean time of a pair inside, in s, GPUs chosen by chance; infinite where the load is too much."""
    half = cell.gateway_s / 2
    core = half + mean_wait(2 * cell.rate / cell.gateways, half, cell.cores)
    return 2 * core + cell.gpu_s + mean_wait(cell.rate / cell.gpus, cell.gpu_s, 1)


def mean_wait(rate: float, service_s: float, servers: int) -> float:
    """Erlang's C: mean wait in a queue M/M/servers, in s."""
    offered = rate * service_s
    if offered >= servers:
        return math.inf
    blocked = 1.0  # Erlang's B, by its recursion
    for count in range(1, servers + 1):
        blocked = offered * blocked / (count + offered * blocked)
    delayed = blocked / (1 - offered / servers * (1 - blocked))
    return delayed * service_s / (servers - offered)


def simulate(cell: Cell, requests: int = 10_000, seed: int = 0, in_turn: bool = True) -> Latency:
    """So many pairs through the cell. The same arguments give the same numbers."""
    run = _Run(cell, requests, random.Random(seed), in_turn)
    run.environment.process(run.arrivals())
    run.environment.run()
    return run.result()


class _Run:
    def __init__(self, cell: Cell, requests: int, rng: random.Random, in_turn: bool) -> None:
        self.environment = simpy.Environment()
        self.cell, self.requests, self.rng, self.in_turn = cell, requests, rng, in_turn
        self.gateways = [simpy.Resource(self.environment, cell.cores) for _ in range(cell.gateways)]
        self.gpus = [simpy.Resource(self.environment, 1) for _ in range(cell.gpus)]
        self.turns = [rng.randrange(cell.gpus) for _ in range(cell.gateways)]
        self.times: list[float] = []
        self.busy = {"core": 0.0, "gpu": 0.0}

    def arrivals(self) -> Generator[simpy.Event, Any, None]:
        for number in range(self.requests):
            yield self.environment.timeout(self.rng.expovariate(self.cell.rate))
            self.environment.process(self.pair(number))

    def pair(self, number: int) -> Generator[simpy.Event, Any, None]:
        began, gateway = self.environment.now, self.rng.randrange(self.cell.gateways)
        half = self.cell.gateway_s / 2
        yield from self.serve(self.gateways[gateway], "core", half)
        yield from self.serve(self.gpus[self.choose(gateway)], "gpu", self.cell.gpu_s)
        yield from self.serve(self.gateways[gateway], "core", half)
        if number >= _WARM_UP * self.requests:
            self.times.append(self.environment.now - began)

    def choose(self, gateway: int) -> int:
        if not self.in_turn:
            return self.rng.randrange(self.cell.gpus)
        self.turns[gateway] = (self.turns[gateway] + 1) % self.cell.gpus
        return self.turns[gateway]

    def serve(self, resource: simpy.Resource, kind: str, mean_s: float) -> Generator[simpy.Event, Any, None]:
        with resource.request() as turn:
            yield turn
            service = self.rng.expovariate(1 / mean_s)
            self.busy[kind] += service
            yield self.environment.timeout(service)

    def result(self) -> Latency:
        ordered = sorted(self.times)
        cores = self.cell.gateways * self.cell.cores * self.environment.now
        return Latency(
            gateways=self.cell.gateways,
            gpus=self.cell.gpus,
            mean_ms=1000 * sum(ordered) / len(ordered),
            p50_ms=1000 * ordered[len(ordered) // 2],
            p99_ms=1000 * ordered[int(0.99 * len(ordered))],
            cores_busy=self.busy["core"] / cores,
            gpus_busy=self.busy["gpu"] / (self.cell.gpus * self.environment.now),
        )
