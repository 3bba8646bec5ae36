"""The guest's clock follows the broker's, whose pings carry the time.

Nothing else sets it after the boot: it is late by what QEMU stopped the machine, by a
step of the host's clock, and by the drift of a machine that runs for weeks.
A ping can be read late and never early: if one ping has a later time, the guest is late for
certain. It is ahead if all pings of some seconds have an earlier time.
"""

from __future__ import annotations

import time
from typing import Optional

from shims.guest.loop import log

STEP_NS = 10**9
AHEAD_SECONDS = 10.0


class GuestClock:
    """Steps the clock of the machine when it differs by more than a second."""

    def __init__(self) -> None:
        self._ahead_since: Optional[float] = None

    def follow(self, broker_ns: int) -> None:
        """Set the clock by a ping's time, in nanoseconds; 0: an older broker's."""
        late = broker_ns - time.time_ns()
        if not broker_ns or abs(late) <= STEP_NS:
            self._ahead_since = None
            return
        now = time.monotonic()
        since = now if self._ahead_since is None else self._ahead_since
        self._ahead_since = since if late < 0 else None
        # guard: a ping that waited while the guest was stopped sets no clock back
        if late < 0 and now - since < AHEAD_SECONDS:
            return
        self._ahead_since = None
        try:
            time.clock_settime_ns(time.CLOCK_REALTIME, broker_ns)
        except (OSError, OverflowError, ValueError) as error:
            log(f"cannot set the clock: {error}")
            return
        log(f"the clock was set by {late / 10**9:+.1f} s")
