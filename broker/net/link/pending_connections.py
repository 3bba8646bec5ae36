"""Connections that have not proved anything yet: how many, and until when.

Each connection of the link waits here from accept until its handshake, its
preamble or its pairing's first messages are done.  Pure: time is passed in
(seconds of a monotonic clock), the caller owns the connections.

Any process of the other broker's machine may connect, because CID, uid or
path are the machine's and not the broker's.  So when the places are taken, it is not
the newcomer that is turned away, but the oldest of those that have sent
least: half-open connections, however many, keep an honest broker out for no
longer than it takes to say which key it has.

The viewer runs it, which listens.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from broker.core.limits import link as limits


# The link closes the connection that has sent least to make room. Until its handshake a
# connection of the link may be any process's: the host machine's CID belongs to all its
# processes. Places for such connections are few, and were given in order of arrival: a
# handful of silent sockets, opened again every ten seconds, kept the host's broker out.
# Now one more connection pushes out the oldest of those that have sent least, and one
# that has named a pinned key goes after all others. So an attacker must know that key
# (public, but not published), and finish sixty-four first messages in the milliseconds
# that an honest broker takes for its second one. Refusing the newcomer would have been
# simpler, and a random victim fairer to the attacker.
@dataclass(eq=False)
class Ticket:
    """One waiting connection."""

    number: int
    peer: str
    deadline: float
    """Still unproved at this time, it is closed."""
    known: bool = False
    """Its peer has named a pinned key, and has not yet proved to hold it."""
    proved: bool = False
    """Its peer holds that key, and waits for the turn of its epoch."""


class PendingConnections:
    """All unauthenticated connections of one broker's link."""

    def __init__(self) -> None:
        self._tickets: dict[int, Ticket] = {}
        self._of_peer: Counter[str] = Counter()
        self._last = 0

    def enter(self, peer: str, now: float) -> tuple[Ticket, Ticket | None]:
        """Let a connection wait; ``peer`` is what the kernel says it is.

        Returns its ticket, and that of the connection which loses its place to
        it, if one does: the caller closes it without an answer.
        """
        pushed = self._surplus(peer)
        if pushed is not None:
            self.leave(pushed)
        self._last += 1
        ticket = Ticket(self._last, peer, now + limits.LINK_HANDSHAKE_SECONDS)
        self._tickets[ticket.number] = ticket
        self._of_peer[peer] += 1
        return ticket, pushed

    def _surplus(self, peer: str) -> Ticket | None:
        """Return the ticket that one more connection of ``peer`` replaces, if any."""
        if self._of_peer[peer] >= limits.LINK_UNAUTHENTICATED_PER_PEER:
            crowd = peer
        elif len(self._tickets) >= limits.LINK_UNAUTHENTICATED:
            # Of those who have most: a peer with few is not pushed out by many.
            ((crowd, _),) = self._of_peer.most_common(1)
        else:
            return None
        found = (t for t in self._tickets.values() if t.peer == crowd)
        return min(found, key=lambda ticket: (ticket.known, ticket.number))

    def leave(self, ticket: Ticket) -> None:
        """Remove a connection that is authenticated, refused or closed; idempotent."""
        if self._tickets.pop(ticket.number, None) is None:
            return
        self._of_peer[ticket.peer] -= 1
        if not self._of_peer[ticket.peer]:
            del self._of_peer[ticket.peer]

    def __len__(self) -> int:
        return len(self._tickets)
