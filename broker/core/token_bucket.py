"""A token bucket: how often something may happen.  Time is passed in.

Each process that limits a rate counts by this: workers, viewer, host, packet guard,
authority, shipper and ``vitrail-devices``.
"""

from __future__ import annotations


class TokenBucket:
    """Allows ``burst`` events at once and ``rate`` a second in the long run."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._left = float(burst)
        self._then: float | None = None

    def take(self, now: float, amount: int = 1) -> float:
        """Count events at ``now``; return how many seconds too early the last one came.

        Returns how many seconds too early the last one came: 0 when it may happen at
        once.  A caller that paces itself sleeps that long; a caller that supervises
        another treats anything above 0 as a breach.
        """
        early = self.early(now, amount)
        self._left -= amount
        return early

    def early(self, now: float, amount: int = 1) -> float:
        """Return what ``take`` would, and count nothing."""
        if self._then is not None:
            self._left = min(self._burst, self._left + (now - self._then) * self._rate)
        self._then = now
        return max(0.0, (amount - self._left) / self._rate)
