"""Host or viewer as the other one has it, over either carrier.

Two machines have sealed records between them (``epoch``), one machine has packets with
descriptors (``pair_end``).  Host and viewer run it, each for the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec
import trio

from broker.net.link.lease_book import LeaseBook
from broker.net.link_service.lease_ledger import LeaseLedger
from broker.wire.peer import Peer
from broker.wire.row import Row

_Q = TypeVar("_Q", bound=msgspec.Struct)
_A = TypeVar("_A", bound=msgspec.Struct)


class FarEnd:
    """A connection to the other part of the broker."""

    peer: Peer
    """Set by the class that has the carrier."""

    def __init__(self, *, reconnects: bool) -> None:
        """``reconnects``: see ``LeaseBook``."""
        self.ledger = LeaseLedger(reconnects=reconnects)

    @property
    def leases(self) -> LeaseBook:
        """The leases that the host has announced on it."""
        return self.ledger.leases

    @property
    def live(self) -> bool:
        """Whether calls can be made."""
        return self.peer.live

    @property
    def over(self) -> trio.Event:
        """Set when the connection is closed."""
        return self.peer.over

    async def call(self, row: Row[_Q, _A], request: _Q, fds: Sequence[int] = ()) -> _A:
        """Call the far end.  Raises as ``Peer.call``."""
        return await self.peer.call(row, request, fds)

    async def call_unless_silent(self, row: Row[_Q, _A], request: _Q) -> None:
        """Call the far end, but do not wait for the answer of a silent one.

        A silent end serves the call when it is back.  Raises as ``call``.
        """
        await self.call(row, request)
