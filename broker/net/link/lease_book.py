"""The leases that a host has announced to its viewer, as both ends note them.

The same rules on both ends, moved by the same messages.  Sans-IO.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from broker.core import limits
from broker.core.lease import Lease
from broker.core.limits import link as link_limits
from broker.core.names import LeaseId
from broker.ipc.host_rows import LeaseBegun, LeaseEnded


@dataclass(frozen=True)
class Announced:
    """A lease in the book."""

    lease: Lease
    peer: str
    call: int
    """The number of its announcement."""
    confirmed: bool = False
    """The viewer has answered: streams may be opened."""


class LeaseBook:
    """The leases of one epoch; the same rules on both ends.

    Only the host's messages enter and strike leases; the viewer's reply to
    an announcement says whether its streams may be opened, nothing else.  If
    a refusal struck the lease too, it could cross with the host's own
    LeaseEnded, which would then name a lease that is not there.
    """

    def __init__(self, *, reconnects: bool = True) -> None:
        """Set up an empty book of leases.

        Otherwise it forgets the leases that ended first.
        """
        self._reconnects = reconnects
        self._by_id: dict[LeaseId, Announced] = {}
        self._ended: dict[LeaseId, None] = {}

    def begin(self, call: int, message: LeaseBegun) -> None:
        """Enter the lease of an announcement.

        Raises ValueError with the rule it breaks.
        """
        lease = message.to_lease()
        if len(self._by_id) >= limits.LEASES:
            raise ValueError(f"more than {limits.LEASES} leases")
        if lease.id in self._by_id:
            raise ValueError(f"lease {lease.id} is announced twice")
        # An id that could be another sandbox's the next moment would let what
        # still ends for the one decide, or live on, for the other.
        # guard: a lease id is used once
        if lease.id in self._ended:
            raise ValueError(f"lease {lease.id} has ended and is announced again")
        if self._reconnects and len(self._ended) >= link_limits.LINK_LEASES_PER_EPOCH:
            raise ValueError(
                f"too many leases have ended in this epoch: {len(self._ended)}"
            )
        if any(a.lease.sandbox == lease.sandbox for a in self._by_id.values()):
            raise ValueError(f"sandbox {lease.sandbox} has a second lease")
        self._by_id[lease.id] = Announced(lease, message.peer, call)

    def end(self, message: LeaseEnded) -> None:
        """Remove a lease that has ended.

        Raises ValueError if it is not in the book.
        """
        if self._by_id.pop(LeaseId(message.lease), None) is None:
            raise ValueError(f"lease {message.lease} ended, but was never announced")
        self._ended[LeaseId(message.lease)] = None
        # guard: leases that have ended fill no memory
        if (
            not self._reconnects
            and len(self._ended) > link_limits.LINK_LEASES_PER_EPOCH
        ):
            del self._ended[next(iter(self._ended))]

    def confirm(self, call: int, message: LeaseBegun) -> None:
        """Enter the viewer's answer; the lease may have ended before it."""
        announced = self._by_id.get(LeaseId(message.lease))
        if announced is not None and announced.call == call:
            self._by_id[announced.lease.id] = replace(announced, confirmed=True)

    def usable(self, lease: LeaseId) -> Announced | None:
        """The lease, if its streams may be opened now."""
        announced = self._by_id.get(lease)
        return announced if announced is not None and announced.confirmed else None

    def get(self, lease: LeaseId) -> Announced | None:
        """A lease that was announced, whether its streams may be opened or not."""
        return self._by_id.get(lease)

    def all(self) -> list[Announced]:
        """All leases, oldest first."""
        return list(self._by_id.values())
