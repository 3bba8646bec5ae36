"""How fast a viewer takes what its host opens, and how many of it wait.

Each stream costs a decision on disk, events, and some of a worker's time.  A
host paces every one of its sandboxes (``host.admission``); a host that was taken
over need not, and has as many leases as it likes.  So there is one pace for
all streams of the link, also across its epochs, and few wait for it.

Fair between leases: the streams of one wait for each other, and one of
each is in the common line.  So whatever the others do, a stream waits
there for no more than one stream of each.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from broker.core.limits import link as limits
from broker.core.names import LeaseId
from broker.core.token_bucket import TokenBucket


@dataclass(eq=False)
class _Line:
    """The undecided streams of one lease."""

    places: int = 0
    lock: trio.Lock = field(default_factory=trio.Lock)


class IntakePlace:
    """One stream's, until it is decided."""

    def __init__(self, intake: Intake, lease: LeaseId, line: _Line) -> None:
        self._intake = intake
        self._lease = lease
        self._line = line
        self._left = False

    async def turn(self) -> None:
        """Wait for this connection's turn to be decided about."""
        # One call of each lease only: so a caller that gives up costs the others
        # no more than the time of one stream.
        # guard: leases take turns
        async with self._line.lock:
            await self._intake.turn()

    def close(self) -> None:
        """It is decided, or will not be; once or again."""
        if not self._left:
            self._left = True
            self._intake.leave(self._lease, self._line)


class Intake:
    """All streams that a viewer has not decided about."""

    def __init__(self) -> None:
        self._pace = TokenBucket(
            limits.LINK_STREAMS_PER_SECOND, limits.LINK_STREAMS_AT_ONCE
        )
        self._lines: dict[LeaseId, _Line] = {}
        self.undecided = 0

    def enter(self, lease: LeaseId) -> IntakePlace | None:
        """Return a place for a stream, or None when there is none left for it.

        A lease that has no other one waiting always gets one.
        """
        line = self._lines.setdefault(lease, _Line())
        # guard: a place for each lease
        # guard: undecided of all
        # guard: one lease has few undecided streams
        if line.places and (
            line.places >= limits.LINK_UNDECIDED_PER_LEASE
            or self.undecided >= limits.LINK_UNDECIDED
        ):
            return None
        line.places += 1
        self.undecided += 1
        return IntakePlace(self, lease, line)

    async def turn(self) -> None:
        """Wait as long as the pace says, or be cancelled in that time."""
        # guard: a pace for streams
        await trio.sleep(self._pace.take(trio.current_time()))

    def leave(self, lease: LeaseId, line: _Line) -> None:
        """Give a place back."""
        line.places -= 1
        self.undecided -= 1
        if not line.places:
            del self._lines[lease]
