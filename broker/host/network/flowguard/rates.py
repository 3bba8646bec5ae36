"""Bytes a second of a sandbox, each way.  Sans-IO.

A side whose bytes come too early is not read for that long, so its sender waits as for
a slow line.

The packet guard of a sandbox runs this, jailed; the host only starts it.
"""

from __future__ import annotations

from broker.core.limits import network as limits
from broker.core.token_bucket import TokenBucket


class TrafficRates:
    """The rates of both ways: from the guest (``outward``), and to it."""

    def __init__(self) -> None:
        self._buckets: dict[bool, TokenBucket] = {}
        self._answers: TokenBucket | None = None
        """Of the name server's part of what comes in."""

    def limit(self, send: int | None, receive: int | None) -> None:
        """Set bytes a second; None: without a limit."""
        self._buckets = {
            outward: _bucket(rate)
            for outward, rate in ((True, send), (False, receive))
            if rate is not None
        }
        self._answers = None if receive is None else _bucket(receive)

    @property
    def limited(self) -> bool:
        """Return whether a side has a rate."""
        return bool(self._buckets)

    def count(self, size: int, now: float, *, outward: bool) -> None:
        """Count bytes that have been read."""
        if (bucket := self._buckets.get(outward)) is not None:
            bucket.take(now, size)

    def count_answers(self, size: int, now: float) -> None:
        """Count bytes that the name server has given to the guest."""
        # guard: what the name server gives counts as received
        self.count(size, now, outward=False)
        if self._answers is not None:
            self._answers.take(now, size)

    def may_ask(self, now: float) -> bool:
        """Return whether a question of the guest's may be taken.

        Answers wait for no room in the rate, others make room for them: names are found
        while a download uses all of it.  So they alone must not exceed it.
        """
        return self._answers is None or self._answers.early(now, 0) == 0

    def early(self, now: float, *, outward: bool) -> float:
        """Return for how many seconds this side is not to be read; 0: it may be."""
        bucket = self._buckets.get(outward)
        return 0.0 if bucket is None else bucket.early(now, 0)


def _bucket(rate: int) -> TokenBucket:
    return TokenBucket(rate, max(rate // limits.RATE_BURST, limits.RATE_LEAST))


def took(pace: TokenBucket, now: float) -> bool:
    """Count one event, if it is not too early for it."""
    if pace.early(now) > 0:
        return False
    pace.take(now)
    return True
