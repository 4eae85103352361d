"""Several servers in turn: who is asked next, and who is left alone for a while."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from mcjepa_client._retry import delay_before_retry


@dataclass
class _State:
    asked: int = 0  # calls under way
    failures: int = 0  # in a row
    rests_until: float = 0.0  # on time.monotonic's clock
    turn: int = 0  # when it was last picked


class Servers:
    """The addresses of one or more equal servers. Safe to share between threads.

    The server with the fewest calls under way is asked next, in turn where that is equal. One that failed
    rests for the time it asked for, or for a growing time, and is asked before only when all of them rest.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self.urls = tuple(urls)
        self._states = {url: _State() for url in self.urls}
        self._turns = 0
        self._lock = threading.Lock()

    def pick(self) -> str:
        """The server to ask now; `done` must follow."""
        with self._lock:
            now = time.monotonic()
            return self._take({url: max(0.0, s.rests_until - now) for url, s in self._states.items()})[0]

    def pick_after(self, failed: str, delay: float) -> tuple[str, float]:
        """After `failed` could not answer and wants `delay` seconds: whom to ask, and after how many seconds.

        Another server that does not rest is asked at once. `done` must follow.
        """
        with self._lock:
            now = time.monotonic()
            state = self._states[failed]
            rest = max(delay, delay_before_retry(state.failures, None))
            state.failures += 1
            state.rests_until = now + rest
            rests = {url: max(0.0, s.rests_until - now) for url, s in self._states.items()}
            return self._take({**rests, failed: delay})

    def done(self, url: str, answered: bool) -> None:
        """A call to `url` has ended; `answered` says that it gave what was asked for."""
        with self._lock:
            state = self._states[url]
            state.asked -= 1
            if answered:
                state.failures, state.rests_until = 0, 0.0

    def _take(self, rests: dict[str, float]) -> tuple[str, float]:
        url = min(rests, key=lambda url: (rests[url], self._states[url].asked, self._states[url].turn))
        self._turns += 1
        self._states[url].turn = self._turns
        self._states[url].asked += 1
        return url, rests[url]
