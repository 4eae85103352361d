"""Steps that need each other's results, in lanes: each begins when they are there and a lane is free."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import islice
from typing import Any

Key = tuple[str, int]  # of a step: what it gives, and of which frame


@dataclass(frozen=True)
class Step:
    """A function that blocks, and the earlier steps whose results it is called with."""

    run: Callable[..., Any]
    needs: tuple[Key, ...] = ()
    alone: Callable[..., Any] | None = None  # in place of `run`, where the other lanes have nothing to do


async def run_steps(
    steps: Mapping[Key, Step], pool: Executor, free_lanes: Callable[[], int]
) -> dict[Key, Any]:
    """The results of the steps that no other step needs, in the order of the steps.

    Of the steps that could begin, the first does; the number of lanes may change in between. What others need
    is kept until the last of them has begun. Raises what a step raises; nobody waits for those that run then.
    """
    loop = asyncio.get_running_loop()
    uses = Counter(need for step in steps.values() for need in step.needs)
    waiting = dict(steps)
    running: dict[asyncio.Future[Any], Key] = {}
    results: dict[Key, Any] = {}
    try:
        while waiting or running:
            while len(running) < (lanes := free_lanes()) and (ready := _ready(waiting, results)):
                step = waiting.pop(ready[0])
                is_alone = lanes > 1 and not running and len(ready) == 1
                run = step.alone if step.alone and is_alone else step.run
                running[loop.run_in_executor(pool, run, *_take(step.needs, results, uses))] = ready[0]
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                results[running.pop(future)] = future.result()
    finally:
        for future in running:
            future.cancel()
    return {key: results[key] for key in steps if key in results}


def _ready(waiting: Mapping[Key, Step], results: Mapping[Key, Any]) -> list[Key]:
    """The first two steps that could begin."""
    found = (key for key, step in waiting.items() if all(need in results for need in step.needs))
    return list(islice(found, 2))


def _take(needs: tuple[Key, ...], results: dict[Key, Any], uses: Counter[Key]) -> list[Any]:
    """The results needed, let go where nobody else needs them."""
    taken = [results[need] for need in needs]
    for need in needs:
        uses[need] -= 1
        if not uses[need]:
            del results[need]
    return taken
