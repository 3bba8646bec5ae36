"""Connections that have not proved anything yet: how many, and until when.

Each connection of the link waits here from accept until its handshake, its
preamble or its pairing's first messages are done.  Pure: time is passed in
(seconds of a monotonic clock), the caller owns the connections.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from broker.core import limits
from broker.core.errors import RefusedError


@dataclass(frozen=True)
class Ticket:
    """One waiting connection."""

    number: int
    peer: str
    deadline: float
    """Still unproved at this time, it is closed."""


class WaitingRoom:
    """All unauthenticated connections of one broker's link."""

    def __init__(self) -> None:
        self._tickets: dict[int, Ticket] = {}
        self._of_peer: Counter[str] = Counter()
        self._last = 0

    def enter(self, peer: str, now: float) -> Ticket:
        """Let a connection wait; ``peer`` is what the kernel says it is.

        Raises RefusedError when the peer or all together have too many; the
        connection is closed without a word then.
        """
        if self._of_peer[peer] >= limits.LINK_UNAUTHENTICATED_PER_PEER:
            raise RefusedError(
                f"{limits.LINK_UNAUTHENTICATED_PER_PEER} connections of {peer} "
                "have not proved themselves"
            )
        if len(self._tickets) >= limits.LINK_UNAUTHENTICATED:
            raise RefusedError(
                f"{limits.LINK_UNAUTHENTICATED} connections have not proved themselves"
            )
        self._last += 1
        ticket = Ticket(self._last, peer, now + limits.LINK_HANDSHAKE_SECONDS)
        self._tickets[ticket.number] = ticket
        self._of_peer[peer] += 1
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The connection is authenticated, refused or closed; once or again."""
        if self._tickets.pop(ticket.number, None) is None:
            return
        self._of_peer[ticket.peer] -= 1
        if not self._of_peer[ticket.peer]:
            del self._of_peer[ticket.peer]

    def overdue(self, now: float) -> list[Ticket]:
        """Those whose deadline has come, oldest first; they still wait."""
        return [t for t in self._tickets.values() if t.deadline <= now]

    def __len__(self) -> int:
        return len(self._tickets)
