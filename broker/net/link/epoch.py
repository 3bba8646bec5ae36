"""The result of a handshake: an epoch, its peer and its keys.

Every control connection is a separate epoch.  Its keys are made by HKDF
from one secret, a key for each purpose and each direction, so that nothing
sealed or signed for one use means anything in another one.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from broker.net.link.keys import PinnedPeer
from broker.net.link.wire_types import Direction, Role

MAC_BYTES = 32
EPOCH_PART_BYTES = 8
EPOCH_BYTES = 2 * EPOCH_PART_BYTES
LABEL = b"vitrail link 1 "


class Purpose(enum.Enum):
    """Purpose of a session key; each purpose has one key per direction."""

    CONTROL = b"control"
    STREAM = b"stream"
    ANSWER = b"answer"
    """The direction is that of the stream which is answered."""


@dataclass(frozen=True)
class Session:
    """The result of a handshake: one epoch with one peer."""

    role: Role
    """Ours."""
    peer: PinnedPeer
    epoch: bytes
    """16 bytes: a part from each end, so neither alone can make one repeat."""
    _keys: Mapping[tuple[Purpose, Direction], bytes] = field(repr=False)

    def key(self, purpose: Purpose, direction: Direction) -> bytes:
        """The 32 bytes for one purpose and one direction."""
        return self._keys[purpose, direction]

    @property
    def sends(self) -> Direction:
        """The direction of what this end sends."""
        return Direction.sent_by(self.role)

    @property
    def receives(self) -> Direction:
        """The direction of what this end receives."""
        return Direction.sent_by(self.role.other)


def make_mac(key: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA256 over the parts, which are of fixed sizes."""
    mac = hmac.HMAC(key, hashes.SHA256())
    for part in parts:
        mac.update(part)
    return mac.finalize()


def mac_holds(untrusted_mac: bytes, key: bytes, *parts: bytes) -> bool:
    """Compare a MAC in constant time; return whether it is right."""
    mac = hmac.HMAC(key, hashes.SHA256())
    for part in parts:
        mac.update(part)
    try:
        mac.verify(untrusted_mac)
    except InvalidSignature:
        return False
    return True


def derive(shared: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869), 32 bytes."""
    kdf = HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=LABEL + info)
    return kdf.derive(shared)
