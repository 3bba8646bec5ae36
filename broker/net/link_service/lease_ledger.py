"""What both ends note of the calls about leases: the book, and the order of serving.

Sans-IO, except that the turns are awaited.  Host and viewer run it.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import msgspec
from typing_extensions import override

from broker.ipc.host_rows import LEASE_BEGUN, LeaseBegun, LeaseEnded
from broker.net.link.lease_book import LeaseBook
from broker.net.link_service.lease_turns import LeaseTurns
from broker.wire.ledger import Ledger
from broker.wire.row import AnyRow


class LeaseLedger(Ledger):
    """The leases that the host has announced on one connection."""

    def __init__(self, *, reconnects: bool) -> None:
        """``reconnects``: see ``LeaseBook``."""
        self.leases = LeaseBook(reconnects=reconnects)
        self._turns = LeaseTurns()

    @override
    def note_call(self, call: int, row: AnyRow, request: msgspec.Struct) -> None:
        if isinstance(request, LeaseBegun):
            self.leases.begin(call, request)
        elif isinstance(request, LeaseEnded):
            self.leases.end(request)

    @override
    def turn(self, request: msgspec.Struct) -> AbstractAsyncContextManager[object]:
        return self._turns.take(request)

    @override
    def note_answer(
        self, call: int, row: AnyRow, request: msgspec.Struct, *, is_done: bool
    ) -> None:
        if row is LEASE_BEGUN and is_done and isinstance(request, LeaseBegun):
            self.leases.confirm(call, request)
