"""Forked processes that share a client, against a real server: each gets the answers to its own questions."""

import asyncio
import multiprocessing
import os

import numpy as np
import pytest
from mcjepa_client import AsyncClient, Client

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]
TIMES = 10


def picture(number):
    return np.full((64, 64, 3), 40 * number, np.uint8)


def ask(client, number):
    return [client.embed(picture(number)).embeddings[0] for _ in range(TIMES)]


def ask_async(client, number):
    async def call():
        return [(await client.embed(picture(number))).embeddings[0] for _ in range(TIMES)]

    return asyncio.run(call())


@pytest.mark.parametrize(("cls", "call"), [(Client, ask), (AsyncClient, ask_async)])
def test_each_process_gets_its_own_answers(server, cls, call):
    client = cls(server.url)
    expected = [call(client, number)[0] for number in range(5)]
    context = multiprocessing.get_context("fork")
    replies = [context.SimpleQueue() for _ in expected]
    children = [
        context.Process(target=lambda n=n: replies[n].put(call(client, n)), daemon=True) for n in range(5)
    ]
    for child in children:
        child.start()
    found = [queue.get() for queue in replies]
    for child in children:
        child.join(60)
    for vectors, vector in zip(found, expected, strict=True):
        assert np.array_equal(vectors, [vector] * TIMES)
    assert np.array_equal(call(client, 1)[0], expected[1])
    if cls is Client:
        client.close()
