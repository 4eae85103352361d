"""How long a failing call is tried again."""

import math
import threading
import time
from dataclasses import dataclass, field

from mcjepa_client._steps import Operation, wait

_NAP = 0.5  # seconds; waiting in small steps lets a call that nobody wants any more end soon


@dataclass
class Patience:
    """Up to `retries` further attempts, within `seconds` of the first failure, until `stopped` is set."""

    retries: float = math.inf
    seconds: float = math.inf
    stopped: threading.Event | None = None
    _failing_since: float | None = field(default=None, init=False)

    def is_over(self, attempt: int) -> bool:
        """Whether failed attempt number `attempt` (0 is the first) was the last."""
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        late = now - self._failing_since >= self.seconds
        return attempt >= self.retries or late or self._is_stopped()

    def wait(self, seconds: float) -> Operation[None]:
        if self.stopped is None:
            yield from wait(seconds)
            return
        while seconds > 0 and not self._is_stopped():
            yield from wait(min(seconds, _NAP))
            seconds -= _NAP

    def _is_stopped(self) -> bool:
        return self.stopped is not None and self.stopped.is_set()
