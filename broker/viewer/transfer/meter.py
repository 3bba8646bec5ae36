"""How much a sandbox has sent within 24 hours (``[transfer]`` in its record).

And how often the user has declined what it offers.

Counted by record, so that a disposable has no new allowance for each start.  Kept
in memory: a restart of the broker forgets it, which only the user can cause.
"""

from __future__ import annotations

from collections import deque

import trio

from broker.core.errors import RefusedError
from broker.core.sliding_window import SlidingWindow
from broker.viewer.exchange.failures import ShareableError
from policy.records.model import Transfer

DECLINED_PER_MINUTE = 4
"""Offers of one record that the user has declined; then it waits."""
_DAY = 86400.0


class DayMeter:
    """Requests and bytes of each record."""

    def __init__(self) -> None:
        self._used: dict[str, deque[tuple[float, int]]] = {}

    def take(self, record: str, size: int, allowed: Transfer, now: float) -> None:
        """Count a request of a size, in bytes.  Raises RefusedError beyond a limit.

        ``now`` in seconds of a clock that does not go back.
        """
        used = self._used.setdefault(record, deque())
        while used and used[0][0] <= now - _DAY:
            used.popleft()
        if len(used) >= allowed.day_requests:
            raise RefusedError(
                f"sandboxes of '{record}' sent {allowed.day_requests} requests in 24 hours, the limit",
                hint="to raise the limit, set day_requests in [transfer] of the record",
            )
        if sum(one for _, one in used) + size > allowed.day_size:
            raise RefusedError(
                f"sandboxes of '{record}' would send more than {allowed.day_size} bytes in 24 hours, "
                "the limit",
                hint="to raise the limit, set day_size in [transfer] of the record",
            )
        used.append((now, size))


class Declined:
    """Dialogs or documents of each record that the user did not want."""

    def __init__(self, what: str) -> None:
        """``what``: "dialogs were dismissed"."""
        self._what = what
        self._windows: dict[str, SlidingWindow] = {}

    def require_few(self, record: str) -> None:
        """Raise ShareableError where a record's user declined too many within a minute."""
        window = self._windows.get(record)
        if window and window.counted(trio.current_time()) >= DECLINED_PER_MINUTE:
            raise ShareableError(
                f"too many requests: {DECLINED_PER_MINUTE} {self._what} in a minute",
                hint="wait a minute",
            )

    def note(self, record: str) -> None:
        """Count one."""
        new = SlidingWindow(DECLINED_PER_MINUTE, 60.0)
        self._windows.setdefault(record, new).take(trio.current_time())
