"""How often callers of one kind of request may do it, each by its own pace.

The viewer counts calls, notifications, icons and connections to the sound server by it.
"""

from __future__ import annotations

import trio

from broker.core.token_bucket import TokenBucket

_ROUNDING = 1e-6
"""Seconds for which it is not worth to wait: a clock may not tell them."""


class CallPaces:
    """A pace for each caller, which all of its connections share."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._paces: dict[str, TokenBucket] = {}

    async def wait(self, caller: str) -> None:
        """Wait until an event of a caller may happen, and count it."""
        await trio.lowlevel.checkpoint()
        # Again after each wait: all that waited are woken at one time.
        # guard: a flood of a daemon waits in its sender
        while (seconds := self.early(caller)) > _ROUNDING:  # noqa: ASYNC110
            await trio.sleep(seconds)
        # guard: a wait that is given up counts nothing
        self._pace(caller).take(trio.current_time())

    def early(self, caller: str) -> float:
        """Return how many seconds an event of a caller would be too early now."""
        return self._pace(caller).early(trio.current_time())

    def _pace(self, caller: str) -> TokenBucket:
        """Return the token bucket of a caller; forget full ones of others."""
        now = trio.current_time()
        for name, pace in list(self._paces.items()):
            if pace.early(now, self._burst) <= 0:
                del self._paces[name]  # it is as a fresh one
        fresh = TokenBucket(self._rate, self._burst)
        # guard: a caller's connections share a pace
        pace = self._paces.setdefault(caller, fresh)
        return pace
