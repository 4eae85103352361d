"""When to ask again, and how long to wait before. No I/O; the caller sleeps."""

import math
import random
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

# Every call of this SDK is a pure computation on the server, so asking twice is always safe. These are the
# answers that another attempt may change: overload, a broken hop in between, not ready, deadline passed.
RETRIED_STATUSES = frozenset({429, 502, 503, 504})

FIRST_DELAY = 0.5  # seconds; doubles with each attempt
LONGEST_DELAY = 8.0
LONGEST_RETRY_AFTER = 60.0  # a server that asks for more waits no longer than this


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds a Retry-After header asks to wait: delay-seconds or HTTP-date (RFC 9110, 10.2.3).

    A date in the past gives 0. None when the header is missing or is neither, whatever it holds.
    """
    if value is None:
        return None
    seconds = _parse_seconds(value)
    if seconds is None:
        seconds = _parse_date(value, now or datetime.now(timezone.utc))
    return seconds


def _parse_seconds(value: str) -> float | None:
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _parse_date(value: str, now: datetime) -> float | None:
    try:
        date = parsedate_to_datetime(value)
        date = date if date.tzinfo else date.replace(tzinfo=timezone.utc)
        return max(0.0, (date - now).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):  # it raises all of these on hostile dates
        return None


def delay_before_retry(attempt: int, retry_after: float | None) -> float:
    """Seconds to wait after failed attempt number `attempt` (0 is the first).

    With `retry_after`: that long, at most LONGEST_RETRY_AFTER, plus up to a tenth so that clients turned
    away together do not return together. Without: exponential from FIRST_DELAY up to LONGEST_DELAY, of which
    a random quarter is taken off.
    """
    if retry_after is not None:
        return min(retry_after, LONGEST_RETRY_AFTER) * (1 + 0.1 * random.random())
    return min(FIRST_DELAY * 2.0 ** min(attempt, 10), LONGEST_DELAY) * (1 - 0.25 * random.random())
