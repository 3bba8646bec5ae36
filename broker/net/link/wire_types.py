"""Words that all parts of the link share, and its refusals.

Every message that can come before authentication begins with the same twelve
bytes in every version of the link, now and later: eight bytes of magic, the
version (``u16``, little-endian like all numbers here), a kind and a role.  So
two brokers of different versions can always say so plainly.

Sans-IO: no socket, no clock, no source of randomness.
"""

from __future__ import annotations

import enum
import struct

from broker.core.errors import PeerError

VERSION = 4
"""Changes whenever two ends of different code would misunderstand each other.

``tests/broker/net/link/test_schema.py`` compares the messages with those of this
version: 1 was the number of several sets of messages, whose ends lost their link every
few seconds.  2 refused a report with a field that it did not know.
"""

HEADER = struct.Struct("<8sHBB")
MAGIC_BYTES = 8


class ConnectionKind(enum.Enum):
    """The purpose of a new connection, given by its first eight bytes."""

    CONTROL = b"VTRL-CTL"
    STREAM = b"VTRL-STR"
    PAIRING = b"VTRL-PAI"


class Role(enum.IntEnum):
    """The two roles; a link always joins one of each."""

    HOST = 1
    VIEWER = 2

    @property
    def other(self) -> Role:
        """The role at the far end."""
        return Role.VIEWER if self is Role.HOST else Role.HOST


class Direction(enum.IntEnum):
    """Which way something was sent, or who opened a stream."""

    TO_VIEWER = 1
    TO_HOST = 2

    @classmethod
    def sent_by(cls, role: Role) -> Direction:
        """The direction of what ``role`` sends."""
        return cls.TO_VIEWER if role is Role.HOST else cls.TO_HOST


class RefusalReason(enum.IntEnum):
    """Why a link was refused; the number travels, unauthenticated."""

    MALFORMED = 1
    VERSION = 2
    ROLE = 3
    UNKNOWN_KEY = 4
    PROOF = 5
    BUSY = 6
    PERSON = 7
    CLOSED = 8
    """Internal, never sent: the other end went away."""


PAIR_HINT = "to pair the two brokers, run 'brokerctl pair NAME --as viewer' on the viewer, then 'brokerctl pair NAME --as host' on the host"


class LinkRefusedError(PeerError):
    """The other end of the link broke its protocol or is not who it must be.

    ``answer`` may be sent before closing, so that an honest other end
    can show its person the reason; empty when nothing should be sent.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: RefusalReason,
        answer: bytes = b"",
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.answer = answer


def other_version(untrusted_version: int) -> LinkRefusedError:
    """Return the refusal of another version, in plain text (and without proof)."""
    return LinkRefusedError(
        f"the other broker uses version {untrusted_version} of the link, but this one uses version {VERSION}",
        reason=RefusalReason.VERSION,
        hint="install the same release of Vitrail on both machines",
    )


def refusal(
    door: ConnectionKind, kind: int, role: Role, reason: RefusalReason
) -> bytes:
    """Return the message whose form never changes: header and a reason."""
    return HEADER.pack(door.value, VERSION, kind, role) + bytes([reason])
