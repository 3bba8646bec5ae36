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
from collections.abc import Mapping
from typing import Self

from broker.core.errors import PeerError

VERSION = 1
"""Changes whenever two ends of different code would misunderstand each other."""

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


_TOLD: Mapping[int, str] = {
    RefusalReason.MALFORMED: "it could not read what we sent",
    RefusalReason.VERSION: "it speaks another version of the link",
    RefusalReason.ROLE: "it has the same role as this broker, or another pinned one",
    RefusalReason.UNKNOWN_KEY: "it does not know this broker's key",
    RefusalReason.PROOF: "our proof was wrong, or was changed on the way",
    RefusalReason.BUSY: "it has too many unfinished connections",
    RefusalReason.PERSON: "the user there did not confirm the code",
}

PAIR_HINT = "pair the two brokers: 'brokerctl pair' on both machines"


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


def take_door(untrusted_first: bytes) -> ConnectionKind:
    """Return what a connection is for, from its first eight bytes.

    Raises LinkRefusedError when it is nothing of ours.
    """
    try:
        return ConnectionKind(untrusted_first)
    except ValueError as error:
        raise LinkRefusedError(
            "the first bytes are not of Vitrail's link", reason=RefusalReason.MALFORMED
        ) from error


def other_version(untrusted_version: int) -> LinkRefusedError:
    """The refusal of another version, in plain text (and without proof)."""
    return LinkRefusedError(
        f"the other broker speaks version {untrusted_version} of the link, "
        f"this one version {VERSION}",
        reason=RefusalReason.VERSION,
        hint="install the same release of Vitrail on both machines",
    )


def refusal(
    door: ConnectionKind, kind: int, role: Role, reason: RefusalReason
) -> bytes:
    """Return the message whose form never changes: header and a reason."""
    return HEADER.pack(door.value, VERSION, kind, role) + bytes([reason])


def told_refusal(untrusted_message: bytes) -> LinkRefusedError:
    """The error for a refusal that the other end sent; the text is ours."""
    code = untrusted_message[HEADER.size]
    reason = RefusalReason(code) if code in _TOLD else RefusalReason.MALFORMED
    text = _TOLD.get(code, f"for a reason that we do not know ({code})")
    return LinkRefusedError(
        f"the other broker refused: {text} (said without proof)",
        reason=reason,
        hint=PAIR_HINT if reason is RefusalReason.UNKNOWN_KEY else "",
    )


def refuse_other_than(expected: Role, untrusted_role: int) -> None:
    """Raise LinkRefusedError unless the other end says the role that is not ours."""
    if untrusted_role == expected:
        return
    raise LinkRefusedError(
        f"both ends say that they are the {expected.other.name.lower()}"
        if untrusted_role == expected.other
        else "an unknown role",
        reason=RefusalReason.ROLE,
        hint="one broker is the host, the other one the viewer",
    )


class LinkReader:
    """Cuts a stream of bytes into messages whose size their kind fixes.

    Refuses at the first byte that cannot be right, so a wrong start never
    waits for more.  Holds at most one unfinished message beyond its input.
    """

    def __init__(self, door: ConnectionKind, sizes: Mapping[int, int]) -> None:
        self._magic = door.value
        self._sizes = sizes
        self._buffer = bytearray()

    def feed(self, untrusted_data: bytes) -> Self:
        """Add bytes."""
        self._buffer += untrusted_data
        return self

    def take(self) -> tuple[int, int, bytes] | None:
        """Return kind, role (a number still) and the whole next message.

        None when it is not complete.  Raises LinkRefusedError.
        """
        start = bytes(self._buffer[:MAGIC_BYTES])
        if not self._magic.startswith(start):
            raise LinkRefusedError(
                "the other end does not speak this protocol",
                reason=RefusalReason.MALFORMED,
            )
        if len(self._buffer) < HEADER.size:
            return None
        _, version, kind, role = HEADER.unpack_from(self._buffer)
        if version != VERSION:
            raise other_version(version)
        size = self._sizes.get(kind)
        if size is None:
            raise LinkRefusedError(
                f"unknown kind of message ({kind})", reason=RefusalReason.MALFORMED
            )
        if len(self._buffer) < size:
            return None
        message = bytes(self._buffer[:size])
        del self._buffer[:size]
        return kind, role, message

    def rest(self) -> bytes:
        """Return and forget the bytes after the last message taken."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest
