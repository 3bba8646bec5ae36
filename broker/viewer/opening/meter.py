"""How much a sandbox has sent within 24 hours (``[transfer]`` in its record).

Counted by record, so that a disposable has no new allowance for each start.  Kept
in memory: a restart of the broker forgets it, which only the user can cause.
"""

from __future__ import annotations

from collections import deque

from broker.core.errors import RefusedError
from policy.records.model import Transfer

_DAY = 86400.0


class DayMeter:
    """Requests and bytes of each record."""

    def __init__(self) -> None:
        self._used: dict[str, deque[tuple[float, int]]] = {}

    def take(self, record: str, size: int, allowed: Transfer, now: float) -> None:
        """Count a request of so many bytes.  Raises RefusedError beyond a limit.

        ``now`` in seconds of a clock that does not go back.
        """
        used = self._used.setdefault(record, deque())
        while used and used[0][0] <= now - _DAY:
            used.popleft()
        if len(used) >= allowed.day_requests:
            raise RefusedError(f"{allowed.day_requests} requests within 24 hours")
        if sum(one for _, one in used) + size > allowed.day_size:
            raise RefusedError(f"more than {allowed.day_size} bytes within 24 hours")
        used.append((now, size))
