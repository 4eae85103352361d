"""Calls that run ahead of their turn."""

import asyncio
from contextlib import aclosing
from functools import partial

import pytest
from mcjepa_server.decoding.pool import ordered_map


class Calls:
    """Counts those that run, those that ended, and those that were cancelled."""

    def __init__(self):
        self.running = self.most = self.cancelled = 0
        self.begun = []

    async def call(self, number, turns):
        self.begun.append(number)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
            if number < 0:
                raise ValueError(number)
            return number
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


def collect(calls, at_once):
    async def main():
        async with aclosing(ordered_map(calls, at_once)) as results:
            return [result async for result in results]

    return asyncio.run(main())


@pytest.mark.parametrize("at_once", [1, 2, 3, 9])
def test_results_come_in_order_and_so_many_run_at_most(at_once):
    calls = Calls()
    wanted = [partial(calls.call, number, turns) for number, turns in enumerate([5, 1, 9, 1, 1, 3, 2])]
    assert collect(wanted, at_once) == list(range(7))
    assert calls.most == min(at_once, 7)


def test_the_error_is_that_of_the_first_call_that_fails_and_ends_the_others():
    calls = Calls()
    wanted = [partial(calls.call, number, turns) for number, turns in [(0, 1), (-1, 20), (-2, 1), (3, 1000)]]

    async def scenario():
        with pytest.raises(ValueError, match="-1"):
            async with aclosing(ordered_map(wanted, 3)) as results:
                assert [result async for result in results]
        return calls.running, calls.cancelled  # before the loop ends, which would cancel them as well

    assert asyncio.run(scenario()) == (0, 1)


def test_a_reader_who_leaves_ends_the_calls_begun():
    calls = Calls()

    async def scenario():
        async with aclosing(ordered_map([partial(calls.call, n, n * 10**6) for n in range(9)], 2)) as results:
            async for _ in results:
                break
        return calls.begun, calls.running

    assert asyncio.run(scenario()) == ([0, 1], 0)


def test_a_reader_who_is_cancelled_ends_the_calls_begun():
    calls = Calls()

    async def scenario():
        reader = asyncio.create_task(read())
        while len(calls.begun) < 2:
            await asyncio.sleep(0)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        return calls.running, calls.cancelled

    async def read():
        async with aclosing(ordered_map([partial(calls.call, n, 10**6) for n in range(9)], 2)) as results:
            return [result async for result in results]

    assert asyncio.run(scenario()) == (0, 2)
