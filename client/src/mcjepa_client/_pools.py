"""The connections of a client: each process has its own, and so has each event loop.

Two processes on one connection read each other's replies, and a connection of an event loop that has ended is
dead.
So connections are fetched for each request, and made where there are none yet.
"""

import os
from collections.abc import AsyncGenerator, Callable
from typing import Generic, NoReturn, TypeVar

import anyio.lowlevel
import httpx2

from mcjepa_client._errors import InputError

T = TypeVar("T")


class PerProcess(Generic[T]):
    """A value that each process has one of; a forked child makes its own and leaves that of its parent alone.

    There is no lock: one that was held at the moment of a fork would stay locked in the child for ever.
    """

    def __init__(self, make: Callable[[], T], first: T | None = None) -> None:
        """Keep `make`, which gives the value, and `first`, that of this process, where it is there."""
        self._make = make
        # What belongs to the parent stays in here too: to delete it would be to close it.
        self._values: dict[int, T] = {} if first is None else {os.getpid(): first}

    def get(self) -> T:
        """Return the value of this process."""
        process = os.getpid()
        found = self._values.get(process)
        return self._values.setdefault(process, self._make()) if found is None else found

    def peek(self) -> T | None:
        """Return the value of this process, or None if nobody has asked for it yet."""
        return self._values.get(os.getpid())


def refuse_other_process() -> NoReturn:
    """Raise InputError: the `make` of connections that were passed in, which only one process has."""
    raise InputError(
        "http_client: its connections are those of the process that made it; "
        "make the client in this process, or leave http_client out"
    )


class PerLoop:
    """HTTP clients for asyncio and trio: one for each event loop of each process, closed when it ends."""

    def __init__(self, make: Callable[[], httpx2.AsyncClient]) -> None:
        """Make the first client at once, so that settings that are wrong are found here."""
        self._make = make
        self._spare = [make()]
        self._clients: dict[object, tuple[httpx2.AsyncClient, AsyncGenerator[None, None]]] = {}

    async def get(self) -> httpx2.AsyncClient:
        """Return the client of the running event loop."""
        key = os.getpid(), anyio.lowlevel.current_token()
        if key not in self._clients:
            client = self._spare.pop() if self._spare else self._make()
            keeper = self._keep(key, client)
            self._clients[key] = client, keeper
            await anext(keeper)
        return self._clients[key][0]

    async def close(self) -> None:
        """Close the client of the running event loop; those of other loops close when their loop ends."""
        found = self._clients.get((os.getpid(), anyio.lowlevel.current_token()))
        if found is not None:
            await found[1].aclose()

    async def _keep(self, key: object, client: httpx2.AsyncClient) -> AsyncGenerator[None, None]:
        """Wait for the end of the event loop, when asyncio and trio close all generators that are open."""
        try:
            yield
        finally:
            del self._clients[key]
            await client.aclose()
