"""At most so many events in any stretch of so many seconds.  Time is passed in.

Unlike ``token_bucket.TokenBucket``, which allows a burst and the tokens added meanwhile, this
never lets more than ``calls`` into any stretch of ``seconds``: what a rule
``rate=3/min`` says.

The authority counts calls of a rule by this, the viewer what sandboxes show and copy.
"""

from __future__ import annotations

from collections import deque

from broker.core import limits


class SlidingWindow:
    """Counts events; those of one part of the time are forgotten together."""

    def __init__(self, calls: int, seconds: float) -> None:
        self._calls = calls
        self._seconds = seconds
        self._part = seconds / limits.RATE_SLOTS
        self._counts: deque[tuple[float, int]] = deque()
        self._sum = 0

    def take(self, now: float) -> bool:
        """Count an event at ``now`` if there is room; return whether there was.

        ``now`` in seconds, of a clock that does not go back.
        """
        self._forget(now)
        if self._sum >= self._calls:
            return False
        if self._counts and now - self._counts[-1][0] < self._part:
            began, count = self._counts[-1]
            self._counts[-1] = (began, count + 1)
        else:
            self._counts.append((now, 1))
        self._sum += 1
        return True

    def counted(self, now: float) -> int:
        """How many events count at ``now``."""
        self._forget(now)
        return self._sum

    def idle(self, now: float) -> bool:
        """Return whether no event counts at ``now``: the window can be forgotten."""
        self._forget(now)
        return not self._counts

    def _forget(self, now: float) -> None:
        # The last event of a part may be almost a part later than its first.
        while self._counts and now - self._counts[0][0] >= self._seconds + self._part:
            self._sum -= self._counts.popleft()[1]
