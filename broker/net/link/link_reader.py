"""What an end of the link reads before it knows the other one: messages and refusals.

Sans-IO: no socket, no clock, no source of randomness.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from broker.net.link.wire_types import (
    HEADER,
    MAGIC_BYTES,
    PAIR_HINT,
    VERSION,
    ConnectionKind,
    LinkRefusedError,
    RefusalReason,
    Role,
    other_version,
)

_TOLD: Mapping[int, str] = {
    RefusalReason.MALFORMED: "it could not decode this broker's message",
    RefusalReason.VERSION: "it uses another version of the link",
    RefusalReason.ROLE: "it has the same role as this broker, or pinned another role",
    RefusalReason.UNKNOWN_KEY: "it does not know this broker's key",
    RefusalReason.PROOF: "this broker's proof was wrong, or was changed in transit",
    RefusalReason.BUSY: "it has too many unfinished connections",
    RefusalReason.PERSON: "its user did not confirm the code",
}


def told_refusal(untrusted_message: bytes) -> LinkRefusedError:
    """Return the error for a refusal that the other end sent; the text is ours."""
    code = untrusted_message[HEADER.size]
    reason = RefusalReason(code) if code in _TOLD else RefusalReason.MALFORMED
    text = _TOLD.get(code, f"for an unknown reason ({code})")
    return LinkRefusedError(
        f"the other broker refused the connection: {text} (without proof)",
        reason=reason,
        hint=PAIR_HINT if reason is RefusalReason.UNKNOWN_KEY else "",
    )


def refuse_other_than(expected: Role, untrusted_role: int) -> None:
    """Raise LinkRefusedError unless the other end says the role that is not ours."""
    if untrusted_role == expected:
        return
    raise LinkRefusedError(
        f"both brokers claim to be the {expected.other.name.lower()}"
        if untrusted_role == expected.other
        else "the other broker has an unknown role",
        reason=RefusalReason.ROLE,
        hint="configure one broker as the host and the other as the viewer",
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
                "the other program does not speak this protocol",
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
