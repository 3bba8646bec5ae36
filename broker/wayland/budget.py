"""How fast a connection may go: a bucket of messages and one of pixels.

Sans-IO: time is passed in; the answer is how long to stop reading.
"""

from __future__ import annotations

from broker.core import limits
from broker.core.pace import Pace


class Budget:
    """Both buckets of one connection."""

    def __init__(self) -> None:
        self._messages = Pace(
            limits.WAYLAND_MESSAGES_PER_SECOND, limits.WAYLAND_MESSAGES_BURST
        )
        self._pixels = Pace(
            limits.WAYLAND_COMMIT_PIXELS_PER_SECOND, limits.WAYLAND_COMMIT_PIXELS_BURST
        )
        self._seen = (0, 0)

    def pause(self, messages: int, pixels: int, now: float) -> float:
        """Seconds not to read, given the connection's totals so far."""
        before = self._seen
        self._seen = (messages, pixels)
        return max(
            self._messages.take(now, messages - before[0]),
            self._pixels.take(now, pixels - before[1]),
        )
