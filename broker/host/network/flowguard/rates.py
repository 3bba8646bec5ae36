"""Bytes a second of a sandbox, each way.  Sans-IO.

A side whose bytes come too early is not read for that long, so its sender waits as for
a slow line.
"""

from __future__ import annotations

from broker.core.limits import network as limits
from broker.core.token_bucket import TokenBucket


class TrafficRates:
    """The rates of both ways: from the guest (``outward``), and to it."""

    def __init__(self) -> None:
        self._buckets: dict[bool, TokenBucket] = {}

    def limit(self, send: int | None, receive: int | None) -> None:
        """Set bytes a second; None: without a limit."""
        self._buckets = {
            outward: TokenBucket(
                rate, max(rate // limits.RATE_BURST, limits.RATE_LEAST)
            )
            for outward, rate in ((True, send), (False, receive))
            if rate is not None
        }

    @property
    def limited(self) -> bool:
        """Return whether a side has a rate."""
        return bool(self._buckets)

    def count(self, size: int, now: float, *, outward: bool) -> None:
        """Count bytes that have been read."""
        if (bucket := self._buckets.get(outward)) is not None:
            bucket.take(now, size)

    def early(self, now: float, *, outward: bool) -> float:
        """Return for how many seconds this side is not to be read; 0: it may be."""
        bucket = self._buckets.get(outward)
        return 0.0 if bucket is None else bucket.early(now, 0)


def took(pace: TokenBucket, now: float) -> bool:
    """Count one event, if it is not too early for it."""
    if pace.early(now) > 0:
        return False
    pace.take(now)
    return True
