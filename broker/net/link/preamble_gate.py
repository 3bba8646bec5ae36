"""The receiver's end of preambles (``preamble``): read whole, checked, taken once.

Sans-IO, as the opener's.

The viewer runs it, for streams that the host opens.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker.core.errors import InternalError
from broker.core.limits import link as limits
from broker.core.names import LeaseId, ServiceName, take_lease_id
from broker.core.services import SERVICES
from broker.net.link.epoch import Purpose, Session, mac_holds, make_mac
from broker.net.link.link_reader import LinkReader
from broker.net.link.preamble import (
    BODY,
    KIND,
    PREAMBLE_BYTES,
    SIGNED_BYTES,
    VERDICT,
    PreambleVerdict,
    at_most,
)
from broker.net.link.wire_types import (
    HEADER,
    ConnectionKind,
    LinkRefusedError,
    RefusalReason,
    Role,
)


@dataclass(frozen=True)
class Preamble:
    """Request of an authenticated stream."""

    opened_by: Role
    number: int
    """Counts the opener's streams of this epoch, from 1."""
    service: ServiceName
    lease: LeaseId


class CounterWindow:
    """Which numbers of an epoch were used: each is accepted at most once.

    Numbers more than ``limits.LINK_WINDOW`` below the highest one seen are
    refused unseen, so the memory is one integer of that many bits.
    """

    def __init__(self) -> None:
        self._highest = 0
        self._seen = 0  # bit n: the number highest - n was used

    def use(self, number: int) -> bool:
        """Mark a number as used; False, and nothing changes, if it may not be."""
        if not 0 < number <= limits.LINK_COUNTER:
            return False
        ahead = number - self._highest
        if ahead > 0:
            kept = self._seen << ahead if ahead < limits.LINK_WINDOW else 0
            self._seen = (kept | 1) & ((1 << limits.LINK_WINDOW) - 1)
            self._highest = number
            return True
        if -ahead >= limits.LINK_WINDOW or self._seen >> -ahead & 1:
            return False
        self._seen |= 1 << -ahead
        return True


class PreambleGate:
    """Checks the preambles that reach this end in one epoch."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._window = CounterWindow()

    def check(self, untrusted_preamble: bytes) -> Preamble:
        """Return what a whole preamble asks for.

        Raises LinkRefusedError: close without an answer, record an event.
        Nothing is remembered of a preamble whose MAC is wrong, so a forger
        cannot use up numbers.
        """
        if len(untrusted_preamble) != PREAMBLE_BYTES:
            raise InternalError("the preamble is incomplete")
        signed = untrusted_preamble[:SIGNED_BYTES]
        mac = untrusted_preamble[SIGNED_BYTES:]
        untrusted_role = HEADER.unpack_from(signed)[3]
        epoch, number, port, lease = BODY.unpack_from(signed, HEADER.size)
        if untrusted_role != self._session.role.other:
            raise LinkRefusedError(
                "the preamble was reflected: this role created it",
                reason=RefusalReason.ROLE,
            )
        if epoch != self._session.epoch:
            raise LinkRefusedError(
                "the preamble belongs to another epoch (an old connection, or a replay)",
                reason=RefusalReason.PROOF,
            )
        if not mac_holds(
            mac, self._session.key(Purpose.STREAM, self._session.receives), signed
        ):
            raise LinkRefusedError("a forged preamble", reason=RefusalReason.PROOF)
        if not self._window.use(number):
            raise LinkRefusedError(
                f"the preamble was replayed (stream {number})",
                reason=RefusalReason.PROOF,
            )
        service = SERVICES.get(port)
        if service is None:
            raise LinkRefusedError(
                f"no service has port {port}", reason=RefusalReason.MALFORMED
            )
        return Preamble(
            self._session.role.other, number, service, take_lease_id(lease.hex())
        )

    def answer(self, preamble: bytes, verdict: PreambleVerdict) -> bytes:
        """The answer to a preamble that ``check`` let through."""
        head = VERDICT.pack(verdict)
        key = self._session.key(Purpose.ANSWER, self._session.receives)
        return head + make_mac(key, preamble, head)


class PreambleReader:
    """Collects one preamble; refuses at the first byte that cannot be right."""

    def __init__(self) -> None:
        self._reader = LinkReader(ConnectionKind.STREAM, {KIND: PREAMBLE_BYTES})
        self._size = 0
        self._over = False

    @property
    def needed(self) -> int:
        """How many bytes are still to be read; 0 when it is over."""
        return 0 if self._over else PREAMBLE_BYTES - self._size

    def feed(self, untrusted_data: bytes) -> bytes | None:
        """Process at most ``needed`` bytes; return the preamble when it is complete.

        Raises LinkRefusedError; close without an answer.
        """
        at_most(untrusted_data, self.needed)
        self._size += len(untrusted_data)
        try:
            taken = self._reader.feed(untrusted_data).take()
        except LinkRefusedError:
            self._over = True
            raise
        if taken is None:
            return None
        self._over = True
        return taken[2]

    def eof(self) -> None:
        """Say that no byte will come; raises unless the preamble is whole."""
        if self._size == PREAMBLE_BYTES:
            return
        self._over = True
        raise LinkRefusedError("a truncated preamble", reason=RefusalReason.CLOSED)
