"""Time that passes while the machine sleeps.

The event loop's clock is CLOCK_MONOTONIC, which stops then: a microphone that was
given for ten minutes would be open the next morning, for the rest of them.
CLOCK_BOOTTIME counts the sleep (clock_gettime(2)); the difference of the two is it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from broker.authority.permit import Permit

_LEAST = 0.5
"""Seconds; a smaller difference is the time between reading the two clocks."""


class BoottimeClock:
    """Seconds of a broker, counted while the machine sleeps, too."""

    def __init__(self) -> None:
        self._apart = _apart()
        self._slept = self._told = 0.0

    def slept(self) -> float:
        """Return how long the machine has slept since this was created, in seconds."""
        apart = _apart()
        # guard: time goes on while the machine sleeps
        if apart - self._apart >= _LEAST:
            self._slept += apart - self._apart
            self._apart = apart
        return self._slept

    def catch_up(self, permits: Iterable[Permit]) -> None:
        """Move the ends of these by what the machine has slept since the last call."""
        slept = self.slept()
        missed, self._told = slept - self._told, slept
        for permit in permits:
            permit.move(missed)

    def now(self) -> float:
        """Return seconds since an arbitrary moment; suspended time counts."""
        return trio.current_time() + self.slept()

    def deadline(self, until: float) -> float:
        """Return a time of this clock as one of the event loop's, for a CancelScope.

        It is right until the machine sleeps.
        """
        return until - self.slept()


def _apart() -> float:
    boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot - time.clock_gettime(time.CLOCK_MONOTONIC)
