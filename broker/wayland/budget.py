"""How fast a connection may go: a bucket of messages and one of pixels.

Sans-IO: time is passed in; the answer is how long to stop reading.
"""

from __future__ import annotations

from broker.core import limits


class Bucket:
    """``rate`` a second, at most ``burst`` saved up."""

    __slots__ = ("_burst", "_left", "_rate", "_when")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._when: float | None = None

    def spend(self, amount: int, now: float) -> float:
        """Take ``amount``; return the seconds until the bucket is not in debt."""
        left = self._left
        if self._when is not None:
            left += (now - self._when) * self._rate
            left = min(left, self._burst)
        self._when = now
        self._left = left = left - amount
        return 0.0 if left >= 0 else -left / self._rate


class Budget:
    """Both buckets of one connection."""

    def __init__(self) -> None:
        self._messages = Bucket(
            limits.WAYLAND_MESSAGES_PER_SECOND, limits.WAYLAND_MESSAGES_BURST
        )
        self._pixels = Bucket(
            limits.WAYLAND_COMMIT_PIXELS_PER_SECOND, limits.WAYLAND_COMMIT_PIXELS_BURST
        )
        self._seen = (0, 0)

    def pause(self, messages: int, pixels: int, now: float) -> float:
        """Seconds not to read, given the connection's totals so far."""
        before = self._seen
        self._seen = (messages, pixels)
        return max(
            self._messages.spend(messages - before[0], now),
            self._pixels.spend(pixels - before[1], now),
        )
