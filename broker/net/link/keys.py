"""Identities of the brokers, the file of pinned peers, session keys.

An identity is one Ed25519 key pair, made once per broker.  A peer is pinned
by its public key, a name for people, and the one role that it may play.
There is no authority and no chain: a key that is not in the file is refused.

Reading and writing the files, and their modes (0600, owned by us), is the
caller's; here bytes come in and values go out.

Host and viewer make and check keys by this, brokerctl for a pairing.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from cryptography.exceptions import InternalError as OpenSSLError
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from typing_extensions import override

from broker.core.errors import RefusedError, SetupError
from broker.core.escape import printable
from broker.core.limits import link as limits
from broker.net.link.wire_types import Role

KEY_BYTES = 32
SIGNATURE_BYTES = 64

_PREFIX = "ed25519:"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_ROLES: Mapping[str, Role] = {"host": Role.HOST, "viewer": Role.VIEWER}
_FINGERPRINT_LABEL = b"vitrail link 1 fingerprint\0"


def sha256(*parts: bytes) -> bytes:
    """SHA-256 over the parts one after the other (all of fixed size, or last)."""
    digest = hashes.Hash(hashes.SHA256())
    for part in parts:
        digest.update(part)
    return digest.finalize()


@dataclass(frozen=True)
class PublicKey:
    """A broker's public key: 32 bytes of Ed25519."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_BYTES:
            raise ValueError(f"a public key has {KEY_BYTES} bytes")

    @override
    def __str__(self) -> str:
        return _PREFIX + base64.b64encode(self.raw).decode()

    @property
    def fingerprint(self) -> str:
        """128 bits for people, as eight groups of four hex digits."""
        digits = sha256(_FINGERPRINT_LABEL, self.raw).hex()[:32]
        return "-".join(digits[n : n + 4] for n in range(0, 32, 4))

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Return whether ``signature`` over ``message`` was made with this key."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


def take_public_key(untrusted_text: str) -> PublicKey:
    """Return the key written as ``ed25519:`` and base64.

    Raises RefusedError.  Only the one canonical spelling of a key is read, so
    that equal keys are equal texts.
    """
    problem = RefusedError(
        f"{printable(untrusted_text, 70)!r} is not a public key",
        hint="to print the key of a broker (ed25519:…), run 'brokerctl link key' on its machine",
    )
    if not untrusted_text.startswith(_PREFIX):
        raise problem
    try:
        raw = base64.b64decode(untrusted_text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise problem from error
    if len(raw) != KEY_BYTES or str(PublicKey(raw)) != untrusted_text:
        raise problem
    return PublicKey(raw)


class BrokerIdentity:
    """This broker's own key pair."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = PublicKey(private.public_key().public_bytes_raw())

    @classmethod
    def from_seed(cls, seed: bytes) -> BrokerIdentity:
        """Make an identity from 32 bytes of the system's random source."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def from_pem(cls, untrusted_pem: bytes, where: str) -> BrokerIdentity:
        """Read what ``to_pem`` wrote.  Raises SetupError naming ``where``."""
        hint = "restore the file, or remove it and pair the brokers again"
        try:
            key = serialization.load_pem_private_key(untrusted_pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm, OpenSSLError) as error:
            # OpenSSLError: an X448 key of the wrong length, for one.
            raise SetupError("not a private key", where=where, hint=hint) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise SetupError("not an Ed25519 key", where=where, hint=hint)
        return cls(key)

    def to_pem(self) -> bytes:
        """Return the private key as PKCS#8 PEM (RFC 8410), to be kept with mode 0600.

        It has no password: a broker starts without a user.
        """
        return self._private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature (RFC 8032) of a message, 64 bytes.

        The callers put a different label in front of each kind of message,
        so that a signature made for one purpose is invalid for another.
        """
        return self._private.sign(message)


@dataclass(frozen=True)
class PinnedPeer:
    """A broker that this one has been paired with."""

    name: str
    role: Role
    key: PublicKey

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise RefusedError(
                f"{printable(self.name, 60)!r} is not the name of a broker",
                hint="use 1 to 31 characters of a-z, 0-9 and '-', beginning with a-z",
            )


@dataclass(frozen=True)
class Peers:
    """All pinned peers: names and keys are each used once."""

    all: tuple[PinnedPeer, ...] = ()
    _by_key: Mapping[bytes, PinnedPeer] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the peers.  Raises RefusedError for a name or key pinned twice."""
        if len(self.all) > limits.LINK_PEERS:
            raise RefusedError(f"cannot accept more than {limits.LINK_PEERS} brokers")
        by_key = {peer.key.raw: peer for peer in self.all}
        names = {peer.name for peer in self.all}
        if len(by_key) < len(self.all) or len(names) < len(self.all):
            raise RefusedError(
                "a broker of this name, or with this key, is already accepted",
                hint="run 'brokerctl link list', then 'brokerctl link forget NAME'",
            )
        object.__setattr__(self, "_by_key", MappingProxyType(by_key))

    def find(self, key: bytes) -> PinnedPeer | None:
        """Return the peer that has this key."""
        return self._by_key.get(key)

    def with_peer(self, peer: PinnedPeer) -> Peers:
        """These and one more.  Raises RefusedError if name or key is taken."""
        return Peers((*self.all, peer))

    def without(self, name: str) -> Peers:
        """These but one."""
        return Peers(tuple(peer for peer in self.all if peer.name != name))


_HEAD = """\
# Vitrail: the brokers that this one accepts on its link.  Written by
# 'brokerctl pair'.  One line each: role, name, public key.
"""


def format_peers(peers: Iterable[PinnedPeer]) -> str:
    """The text of the file of pinned peers."""
    lines = [f"{p.role.name.lower()} {p.name} {p.key}\n" for p in peers]
    return _HEAD + "".join(lines)


def parse_peers(untrusted_text: bytes, where: str, own: PublicKey) -> Peers:
    """Read the file of pinned peers.

    Raises SetupError with ``where:line`` for anything that is not understood:
    a file half understood would silently admit or exclude a peer.
    """
    if len(untrusted_text) > limits.LINK_PEERS_BYTES:
        raise SetupError(f"larger than {limits.LINK_PEERS_BYTES} bytes", where=where)
    peers = Peers()
    for number, raw_line in enumerate(untrusted_text.split(b"\n"), 1):
        try:
            peer = _parse_line(raw_line, own)
            peers = peers if peer is None else peers.with_peer(peer)
        except RefusedError as error:
            raise SetupError(
                error.message, where=f"{where}:{number}", hint=error.hint
            ) from error
    return peers


def _parse_line(untrusted_line: bytes, own: PublicKey) -> PinnedPeer | None:
    """Parse one line of the file of peers; None for an empty one or a comment."""
    try:
        text = untrusted_line.decode("ascii").partition("#")[0]
    except UnicodeDecodeError as error:
        raise RefusedError("the line has a character that is not ASCII") from error
    words = text.split()
    if not words:
        return None
    if len(words) != 3:
        raise RefusedError("a line must have three words: role, name, public key")
    role = _ROLES.get(words[0])
    if role is None:
        raise RefusedError(
            f"{printable(words[0], 60)!r} is not a role", hint="use 'host' or 'viewer'"
        )
    key = take_public_key(words[2])
    if key == own:
        raise RefusedError("this is the broker's own key, not a peer's")
    return PinnedPeer(words[1], role, key)
