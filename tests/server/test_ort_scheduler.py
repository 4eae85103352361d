"""Steps that need each other: when they begin, where, and how long their results are kept."""

import asyncio
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from mcjepa_server.engines.ort_scheduler import Step, run_steps

A, B, C, D = ("a", 0), ("b", 0), ("c", 0), ("d", 0)


def run(steps, lanes=2):
    with ThreadPoolExecutor(4) as pool:
        return asyncio.run(run_steps(steps, pool, lambda: lanes))


def test_results_go_to_the_steps_that_need_them_and_the_last_come_back_in_order():
    steps = {
        A: Step(lambda: "a"),
        B: Step(lambda: "b"),
        C: Step(lambda *given: given, (B, A)),
        D: Step(lambda given: [given], (A,)),
    }
    found = run(steps)
    assert found == {C: ("b", "a"), D: ["a"]}
    assert list(found) == [C, D]


def test_a_step_begins_while_another_one_goes_on():
    both = threading.Barrier(2, timeout=60)  # breaks where c waits for the end of b, which it does not need
    steps = {A: Step(lambda: None), B: Step(both.wait), C: Step(lambda _: both.wait(), (A,))}
    assert sorted(run(steps).values()) == [0, 1]


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_no_more_run_at_once_than_there_are_lanes(lanes):
    now, most, lock = 0, 0, threading.Lock()
    enough = threading.Barrier(lanes, timeout=60)  # breaks where fewer run

    def work():
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        enough.wait()
        with lock:
            now -= 1

    run({("work", index): Step(work) for index in range(3 * lanes)}, lanes)
    assert most == lanes


def test_of_the_steps_that_could_begin_the_first_does():
    began = []
    steps = {
        A: Step(lambda: began.append("a")),
        B: Step(lambda _: began.append("b"), (D,)),
        C: Step(lambda _: began.append("c"), (A,)),
        D: Step(lambda: began.append("d")),
    }
    run(steps, lanes=1)
    assert began == ["a", "c", "d", "b"]


@pytest.mark.parametrize(
    ("lanes", "needs", "expected"),
    [
        (2, (A,), "alone"),
        (1, (A,), "run"),  # the other lane may be somebody else's
        (2, (), "run"),  # it goes on beside a
    ],
)
def test_a_step_that_leaves_lanes_empty_runs_its_other_way(lanes, needs, expected):
    begun = threading.Event()

    def way(name):
        begun.set()
        return name

    wait = (lambda: None) if needs or lanes == 1 else (lambda: begun.wait(60))
    steps = {
        A: Step(wait),
        B: Step(lambda *_: way("run"), needs, alone=lambda *_: way("alone")),
    }
    assert run(steps, lanes)[B] == expected


def test_a_step_beside_which_another_could_begin_is_not_alone():
    steps = {
        A: Step(lambda: None),
        B: Step(lambda _: "run", (A,), alone=lambda _: "alone"),
        C: Step(lambda _: "run", (A,), alone=lambda _: "alone"),
    }
    assert run(steps) == {B: "run", C: "run"}


def test_a_result_is_let_go_with_the_last_step_that_needs_it():
    class Large:
        pass

    made = []

    def make():
        large = Large()
        made.append(weakref.ref(large))
        return large

    steps = {
        A: Step(make),
        B: Step(lambda large: large is made[0](), (A,)),
        C: Step(lambda _: made[0]() is None, (B,)),
    }
    assert run(steps, lanes=1) == {C: True}


def test_lanes_may_change_meanwhile():
    lanes, seen, now, lock, fewer = [2], {}, 0, threading.Lock(), threading.Event()

    def work(index):
        nonlocal now
        with lock:
            now += 1
            seen[index] = now
        if index == 1:
            lanes[0] = 1
            fewer.set()
        fewer.wait(60)
        with lock:
            now -= 1

    with ThreadPoolExecutor(4) as pool:
        steps = {("work", index): Step(partial(work, index)) for index in range(6)}
        asyncio.run(run_steps(steps, pool, lambda: lanes[0]))
    assert max(seen[0], seen[1]) == 2
    assert [seen[index] for index in range(2, 6)] == [1, 1, 1, 1]


def test_an_error_ends_the_run_and_no_further_step_begins():
    began = []
    steps = {
        A: Step(lambda: 1 / 0),
        B: Step(lambda: began.append("b")),
        C: Step(lambda _: began.append("c"), (A,)),
    }
    with pytest.raises(ZeroDivisionError):
        run(steps, lanes=1)
    assert began == []


def test_who_is_cancelled_leaves_at_once():
    release = threading.Event()

    async def scenario():
        with ThreadPoolExecutor(1) as pool:
            task = asyncio.create_task(run_steps({A: Step(release.wait), B: Step(list)}, pool, lambda: 2))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            release.set()

    asyncio.run(asyncio.wait_for(scenario(), 60))
