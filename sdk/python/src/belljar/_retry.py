"""When to try again, and after how long. Pure: the clock and chance are parameters."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

# Statuses that say "not now" before anything was done.
RETRY_STATUSES = frozenset({429, 503})
# The longest that a Retry-After is waited for, seconds. A caller should hear of a longer one.
MAX_RETRY_AFTER = 30.0
FIRST_DELAY = 0.25
MAX_DELAY = 8.0


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds of a Retry-After header: a number, or an HTTP date. None if it is neither."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=timezone.utc)
    return max(0.0, (date - (now or datetime.now(timezone.utc))).total_seconds())


def delay(attempt: int, retry_after: float | None, chance: Callable[[], float] = random.random) -> float | None:
    """Seconds before the next try after `attempt` (0: the first) failed; None: it is not worth the wait.

    Without a Retry-After the delay doubles and is cut by up to a half at random, so that clients
    that failed together do not come back together. With one it is only ever prolonged.
    """
    if retry_after is not None:
        if retry_after > MAX_RETRY_AFTER:
            return None
        return retry_after + FIRST_DELAY * chance()
    # The exponent is bounded, or a very patient client would overflow it.
    grown = min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(attempt, 16))
    return grown * (0.5 + 0.5 * chance())
