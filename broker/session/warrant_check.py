"""What a call of the viewer needs by its row, verified before the call is served.

Each session child checks here what its viewer was permitted, or what the user called; one
that serves for long ends unless the viewer renews the permit.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import msgspec

from broker.core.errors import RefusedError
from broker.ipc.control.forwarded import CallWarrant
from broker.ipc.session.bus_orders import HOLD_PERMIT, HoldPermit
from broker.ipc.session.permit_warrant import OF_REQUEST, PermitWarrant
from broker.session.read_warrant import SECONDS, Warrant, read_warrant
from broker.session.used_warrants import UsedWarrants
from broker.wire.row import AnyRow, NeededPermit, serves
from policy.names import ADMIN_NAMES

if TYPE_CHECKING:
    from broker.session.order_exchange import OrderExchange

_W = TypeVar("_W", PermitWarrant, CallWarrant)
_OF_PERMIT = ("sandbox", "record", "target", *OF_REQUEST)


@dataclass
class WarrantCheck:
    """Verifies the warrants of the calls on one connection."""

    key: bytes
    """The authority's; empty: it has not sent it, and no warrant is good."""
    used: UsedWarrants = field(default_factory=UsedWarrants)
    """Shared by all session children."""
    purpose: str = ""
    """The row of the first call, for which warrants are used."""

    def verify(
        self, row: AnyRow, request: msgspec.Struct, untrusted_warrant: bytes
    ) -> Warrant | None:
        """Return the permit or user's call that a row needs; None: it needs none.

        Raises RefusedError.
        """
        # guard: a warrant has one use, whichever order came last
        self.purpose = self.purpose or row.name
        if row.permit is not None:
            field_name = row.permit.service_field
            named_services = (
                {getattr(request, field_name)} if field_name else set[str]()
            )
            return self.permit(untrusted_warrant, row.permit, named_services)
        if not row.calls:
            return None
        call = self._read(untrusted_warrant, CallWarrant)
        # guard: the call that the user made permits nothing else
        if call.method.rpartition(".")[2] not in row.calls:
            raise RefusedError(f"the call {call.method} does not request this")
        self.use(untrusted_warrant, call.at + SECONDS)
        return call

    def permit(
        self,
        untrusted_warrant: bytes,
        needed: NeededPermit,
        named_services: Collection[str] = (),
    ) -> PermitWarrant:
        """Return the permit of a warrant, which is used by this.

        ``named_services``: a service that is good, too.  Raises RefusedError.
        """
        warrant = self.renewal(untrusted_warrant)
        # guard: a renewed permit begins nothing
        if warrant.renewed:
            raise RefusedError("a renewed permit cannot begin anything")
        services = needed.services.union(named_services)
        # guard: a permit is for the service that it names
        if warrant.service not in services:
            raise RefusedError(
                f"the permit is for {warrant.service}, not for {' or '.join(sorted(services))}"
            )
        # guard: a permit ahead of the uses that a rule asks about is for none of them
        if warrant.ahead and not needed.precedes_uses:
            raise RefusedError(
                f"the permit for {warrant.service} precedes its uses and permits none of them"
            )
        # guard: a permit for another sandbox is not for the desktop
        if needed.for_desktop and warrant.target not in ADMIN_NAMES:
            raise RefusedError(
                f"the permit is for {warrant.target}, not for the desktop"
            )
        self.use(untrusted_warrant, warrant.at + SECONDS)
        return warrant

    def renewal(self, untrusted_warrant: bytes) -> PermitWarrant:
        """Return the permit of a warrant that begins nothing.  Raises RefusedError."""
        return self._read(untrusted_warrant, PermitWarrant)

    def use(self, signed: bytes, until: float) -> None:
        """Note that this order uses a warrant or ticket, which is verified.

        ``until``: when that has expired.  Raises RefusedError for a second use, and for
        a first use that comes too late.
        """
        # guard: what was permitted once is done once
        self.used.take(signed, self.purpose, until)

    def _read(self, untrusted_warrant: bytes, kind: type[_W]) -> _W:
        """Verify a warrant of one kind.

        Raises RefusedError if it is missing or expired.
        """
        warrant = read_warrant(self.key, untrusted_warrant)
        if not isinstance(warrant, kind):
            raise RefusedError(
                "the permission for this operation is missing or has expired",
                hint="try the operation again",
            )
        return warrant


class VerifiedPermit:
    """A permit, and until when it holds."""

    def __init__(self, permit: PermitWarrant) -> None:
        """Hold a permit that was verified."""
        self.permit = permit
        self.until = permit.at + SECONDS

    @serves(HOLD_PERMIT)
    def renew(self, exchange: OrderExchange, _request: HoldPermit) -> None:
        """Hold the permit for longer.  Raises RefusedError."""
        fresh = exchange.check.renewal(exchange.untrusted_warrant)
        # guard: a permit is held by its own renewals
        if any(
            getattr(fresh, name) != getattr(self.permit, name) for name in _OF_PERMIT
        ):
            raise RefusedError("the new permit differs from the first one")
        exchange.answer()
        self.until = fresh.at + SECONDS

    def refuse_late(self) -> None:
        """Raise RefusedError if the permit may have ended."""
        if time.monotonic() > self.until:
            raise RefusedError("the permit has expired")
