"""The server's name in the first packets of QUIC (RFC 9000, 9001 and 9369).

The keys of Initial packets are made of what everybody sees, so a hello is read like
TLS's.  It may be in several packets and in pieces of any order (browsers shuffle them).
A piece may not be sent again with other content, and each connection that a flow begins
is read: what the server puts together is what was read here.  A packet is of the
connection that its receiver's identifier names, as for the server: the one that the
client began with, or the one that the server gave it in its first answer.  AES-GCM does
not commit to its key, so a packet may open under two: such a one does not pass.

Sans-IO.  Needs ``load`` before the process gives up opening files.

The packet guard of a sandbox runs this, jailed; the host only starts it.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from broker.host.network.flowguard.tls_hello import Hello, HelloError, read_message


class _Version(NamedTuple):
    salt: bytes
    label: str
    initial: int
    """Its type of Initial packets."""
    retry: int


_VERSIONS = {
    1: _Version(
        bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"), "quic ", 0, 3
    ),
    0x6B3343CF: _Version(
        bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"), "quicv2 ", 1, 0
    ),
}
_NEGOTIATION, _DRAFTS = bytes(4), 0xFF0000
_LONG, _FIXED = 0x80, 0x40
_ID_BYTES = 20
_SAMPLE = 16
_CLIENT_HELLO = 1
_PADDING, _PING, _CRYPTO, _CLOSED = 0, 1, 6, 0x1C
_ACKS = frozenset({2, 3})
MAX_CONNECTIONS = 3
"""Of one flow; a browser's has one, and two after a Retry or another version."""
INITIAL_BYTES = 1200
"""A server discards Initial packets in shorter datagrams (RFC 9000, 14.1)."""
MAX_IDENTIFIERS = 1 << 14
"""Of a guest's new connections in ``REMEMBERED`` seconds: at most 100 flows a second
begin, each with an identifier of the client's and one of the server's."""
REMEMBERED = 60.0
"""An identifier is not used for another connection for so long, or up to twice that;
servers forget a connection that has not begun after some ten seconds."""
MAX_HELLO = 6 << 10
"""Bytes of a connection's hellos; one is two KiB.  A guest may have this 3,072 times."""
MAX_HELD = 6
"""Datagrams of a flow whose hello is not whole; a hello of two KiB has two."""
MAX_HELD_BYTES = 1 << 14
"""Of their frames; on a network's cable one has 1,500."""


class _QuicError(ValueError):
    """A packet that no server would take, or that is not read."""


class _Packet(NamedTuple):
    """A long header: ``number_at`` is where the number begins in ``data``."""

    data: bytes
    version: int = 0
    is_initial: bool = False
    number_at: int = 0
    receiver: bytes = b""
    """The identifier that it is sent to; of a short header, whose identifier has no
    length, all that it may be."""
    sender: bytes = b""
    early: bool = False
    """Data before the handshake (0-RTT)."""

    def is_to(self, identifier: bytes) -> bool:
        """Return whether the packet is sent to an identifier."""
        if self.version:
            return self.receiver == identifier
        return self.receiver.startswith(identifier)

    def may_follow(self, first: _Packet) -> bool:
        """Return whether a datagram may have it after ``first`` (RFC 9000, 12.2)."""
        return self is first or self.is_to(first.receiver)


class _Keys(NamedTuple):
    """One side's keys of Initial packets."""

    key: AESGCM
    iv: bytes
    mask: Cipher[ECB]


@dataclass(eq=False)
class _Connection:
    """What a client has sent of its hello, and the identifiers of the connection."""

    wanted: bytes
    """The identifier that the client has begun with."""
    version: int
    """In which it has begun; the server may answer in another one (RFC 9368)."""
    refused: bool = False
    """Whether the server has answered that it does not know the version."""
    answered: bytes = b""
    """The identifier that the server has answered with; empty: none exists."""
    known: bytearray = field(default_factory=bytearray)
    is_known: bytearray = field(default_factory=bytearray)
    read: int = 0
    """Where the next message begins."""


class QuicIdentifiers:
    """The identifiers of a guest's connections, of all its flows.

    A server finds a connection by the identifier, from whichever port a packet comes.
    So a second connection by one would reach the first, beside what was read of that.
    """

    def __init__(self) -> None:
        self._new: set[bytes] = set()
        self._old: set[bytes] = set()
        self._turned = 0.0

    def tick(self, now: float) -> None:
        """Forget what is old; called once a second."""
        if now - self._turned > REMEMBERED:
            self._new, self._old, self._turned = set(), self._new, now

    def add(self, identifier: bytes) -> bool:
        """Remember an identifier; return False if it is known, or there is no room."""
        if identifier in self._new or identifier in self._old:
            return False
        # guard: identifiers of QUIC are bounded
        if len(self._new) >= MAX_IDENTIFIERS:
            return False
        self._new.add(identifier)
        return True


class QuicHellos:
    """The hellos of one flow.

    ``unchecked`` has those that are whole; the caller removes permitted ones, and
    passes no datagram while there is one.
    """

    def __init__(self, identifiers: QuicIdentifiers, *, required: bool = True) -> None:
        """Begin with none; not ``required``: another protocol may be carried, too."""
        self._required = required
        self.unchecked: list[Hello] = []
        self.begun = False
        """Whether a hello was whole."""
        self.reads = False
        """Whether a part of one was read."""
        self.over = ""
        """Why the flow is to be ended."""
        self.held: list[bytes] = []
        """Datagrams, as the caller's frames, that wait for the rest of their hello."""
        self._connections: list[_Connection] = []
        self._identifiers = identifiers

    def hold(self, frame: bytes) -> None:
        """Keep a frame until its hello is whole, if there is room for it."""
        # guard: few datagrams are held
        if len(self.held) >= MAX_HELD:
            return
        # guard: datagrams that are held are short
        if sum(map(len, self.held)) + len(frame) > MAX_HELD_BYTES:
            return
        self.held.append(frame)

    @property
    def partial(self) -> bool:
        """Return whether a flow's hello is incomplete, and its datagrams are held.

        A server would also put together parts that reached it by several flows.
        """
        return any(one.read < len(one.known) for one in self._connections)

    def take(self, untrusted_data: bytes) -> bool:
        """Read a guest's QUIC datagram; return False if it must not pass."""
        other = not self._required and not self._connections
        # guard: a hello of QUIC is read at each port
        if other and not _may_begin(untrusted_data):
            return True
        try:
            packets = [*_packets(untrusted_data)]
            # guard: a server takes the datagram of an Initial packet
            if len(untrusted_data) < INITIAL_BYTES and any(
                packet.is_initial for packet in packets
            ):
                return False
            # guard: packets of a datagram are of one connection
            if not all(packet.may_follow(packets[0]) for packet in packets):
                return False
            for packet in packets:
                if packet.is_initial:
                    self._take_initial(packet)
                # guard: nothing precedes a hello
                elif not self.begun:
                    return False
                # guard: what follows a hello is of its connection
                elif not self._is_known(packet):
                    self.over = "it continues as another connection"
                    return False
        except HelloError as error:
            self.over = f"cannot parse its ClientHello: {error}"
            return False
        except _QuicError:
            return False
        return bool(packets)

    def answer(self, data: bytes) -> None:
        """Read the server's first packet, which has its connection identifier.

        It is known by its keys, which follow from what the client has begun with.
        """
        waiting = [
            one for one in self._connections if not one.answered and not one.refused
        ]
        if not waiting or data[:1] < b"\x80":
            return
        with suppress(_QuicError):
            if data[1:5] == _NEGOTIATION:
                refused = _refused(data)
                for one in waiting:
                    one.refused |= one.wanted == refused
                return
            for packet in _packets(data):
                for one in waiting if packet.is_initial else ():
                    keys = _keys(packet.version, one.wanted, "server in")
                    # guard: answers to another connection do not count
                    if _opened(keys, packet) is not None:
                        one.answered = packet.sender
                        self._identifiers.add(packet.sender)

    def _is_known(self, packet: _Packet) -> bool:
        """Return whether a packet belongs to a connection whose hello was checked."""
        # guard: a connection continues after a whole hello
        whole = [one for one in self._connections if one.read]
        return any(
            (packet.early and packet.receiver == one.wanted)
            or (one.answered and packet.is_to(one.answered))
            for one in whole
        )

    def _take_initial(self, packet: _Packet) -> None:
        """Decrypt an Initial packet and keep its part of the hello."""
        # guard: the keys of a packet follow from the identifier of its receiver
        begun = [
            one.wanted
            for one in self._connections
            if one.answered and one.answered == packet.receiver
        ]
        payloads = {
            wanted: payload
            for wanted in (*begun, packet.receiver)
            if (payload := _opened(_keys(packet.version, wanted), packet)) is not None
        }
        # guard: a packet of QUIC opens under one key
        if len(payloads) != 1:
            raise _QuicError
        wanted, payload = next(iter(payloads.items()))
        connection = self._connection(packet, wanted)
        self.reads = True
        for at, data in _pieces(payload):
            _put(connection, at, data)
        for hello in _messages(connection):
            self.unchecked.append(hello)
            self.begun = True

    def _connection(self, packet: _Packet, wanted: bytes) -> _Connection:
        """Return the connection of an Initial packet; begin one if it is new.

        Raises _QuicError.
        """
        same = [one for one in self._connections if one.wanted == wanted]
        for one in same:
            if one.refused:
                continue
            if packet.version == one.version or packet.receiver == one.answered:
                return one
            # guard: a connection begins again where the server refuses its version
            raise _QuicError
        # guard: connections of a flow are few, and none is forgotten
        if len(self._connections) >= MAX_CONNECTIONS:
            raise _QuicError
        # guard: an identifier begins one connection of a guest
        if not self._identifiers.add(wanted) and not same:
            raise _QuicError
        self._connections.append(_Connection(wanted, packet.version))
        return self._connections[-1]


def _may_begin(data: bytes) -> bool:
    """Return whether a datagram begins as QUIC's packets with a long header do.

    In any of its versions, or in a draft of the first; no other protocol is known that
    does.
    """
    version = int.from_bytes(data[1:5])
    known = version in _VERSIONS or version >> 8 == _DRAFTS
    return known and data[0] >= _LONG | _FIXED


def load() -> None:
    """Have the library read all files that it needs."""
    _opened(_keys(1, bytes(8)), _Packet(bytes(64), 1, number_at=20))


def _packets(untrusted_data: bytes) -> Iterator[_Packet]:
    """Return the packets of a datagram with long headers; one with a short one is last.

    Raises _QuicError.
    """
    data = untrusted_data
    while data:
        if data is not untrusted_data and not data.strip(b"\0"):
            return  # padding of the datagram, no packet
        if not data[0] & _LONG:
            yield _Packet(data, receiver=data[1 : 1 + _ID_BYTES])
            return
        reader = _Reader(data)
        first, version = struct.unpack(">BI", reader.take(5))
        known = _VERSIONS.get(version)
        kind = first >> 4 & 3
        # guard: versions of QUIC are those that are read
        if known is None or not first & _FIXED or kind == known.retry:
            raise _QuicError
        connection = reader.vector(1)
        sender = reader.vector(1)
        if max(len(connection), len(sender)) > _ID_BYTES:
            raise _QuicError
        is_initial = kind == known.initial
        if is_initial:
            reader.take(reader.number())
        size = reader.number()
        number_at = reader.at
        reader.take(size)
        yield _Packet(
            data[: reader.at],
            version,
            is_initial,
            number_at,
            connection,
            sender,
            early=kind == known.initial + 1,
        )
        data = data[reader.at :]


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        value = self.data[self.at : self.at + size]
        if len(value) < size:
            raise _QuicError
        self.at += size
        return value

    def vector(self, size: int) -> bytes:
        return self.take(int.from_bytes(self.take(size)))

    def number(self) -> int:
        """A number of variable length (RFC 9000, 16)."""
        first = self.take(1)[0]
        rest = self.take((1 << (first >> 6)) - 1)
        return int.from_bytes(bytes([first & 0x3F]) + rest)


def _expand(secret: bytes, label: str, size: int) -> bytes:
    """HKDF-Expand-Label of one block (RFC 8446, 7.1)."""
    text = b"tls13 " + label.encode()
    info = struct.pack(">HB", size, len(text)) + text + b"\0\1"
    return hmac.digest(secret, info, hashlib.sha256)[:size]


def _refused(data: bytes) -> bytes:
    """Return to which identifier a client sent the version that its server refuses.

    ``data``: a packet of version negotiation (RFC 9000, 17.2.1).  Raises _QuicError.
    """
    reader = _Reader(data)
    reader.take(5)
    reader.vector(1)
    return reader.vector(1)


def _keys(version: int, connection: bytes, side: str = "client in") -> _Keys:
    """Derive the keys of one side's Initial packets (RFC 9001, 5.2)."""
    known = _VERSIONS[version]
    secret = hmac.digest(known.salt, connection, hashlib.sha256)
    own = _expand(secret, side, 32)
    key, iv, mask = (
        _expand(own, known.label + name, size)
        for name, size in (("key", 16), ("iv", 12), ("hp", 16))
    )
    return _Keys(AESGCM(key), iv, Cipher(AES(mask), ECB()))  # noqa: S305


def _opened(keys: _Keys, packet: _Packet) -> bytes | None:
    """Decrypt a packet; None if it was not encrypted with these keys."""
    data, at = packet.data, packet.number_at
    sample = data[at + 4 : at + 4 + _SAMPLE]
    if len(sample) < _SAMPLE:
        return None
    mask = keys.mask.encryptor().update(sample)
    first = data[0] ^ mask[0] & 0x0F
    size = (first & 3) + 1
    number = bytes(a ^ b for a, b in zip(data[at : at + size], mask[1:], strict=False))
    head = bytes([first]) + data[1:at] + number
    nonce = int.from_bytes(keys.iv) ^ int.from_bytes(number)
    try:
        return keys.key.decrypt(nonce.to_bytes(12), data[at + size :], head)
    except InvalidTag:
        return None


def _pieces(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """Return the pieces of a hello in an Initial packet.  Raises _QuicError."""
    reader = _Reader(payload)
    while reader.at < len(payload):
        kind = reader.number()
        if kind == _PADDING:
            reader.at = len(payload) - len(payload[reader.at :].lstrip(b"\0"))
        elif kind in _ACKS:
            reader.number()
            reader.number()
            ranges = reader.number()
            for _ in range(2 * ranges + 1 + 3 * (kind == 3)):
                reader.number()
        elif kind == _CRYPTO:
            at = reader.number()
            yield at, reader.take(reader.number())
        elif kind == _CLOSED:
            reader.number()  # the error, the kind of frame, the reason
            reader.number()
            reader.take(reader.number())
            # guard: nothing follows the end of a connection
            if reader.data[reader.at :].strip(b"\0"):
                raise _QuicError
            return
        # guard: other frames are of no Initial packet
        elif kind != _PING:
            raise _QuicError


def _put(connection: _Connection, at: int, data: bytes) -> None:
    """Store a fragment of a QUIC hello at its offset.  Raises _QuicError."""
    end = at + len(data)
    # guard: a hello of QUIC is bounded
    if end > MAX_HELLO:
        raise _QuicError
    known, is_known = connection.known, connection.is_known
    known.extend(bytes(max(0, end - len(known))))
    is_known.extend(bytes(len(known) - len(is_known)))
    # guard: a repeated part of a QUIC hello has the same bytes
    if any(
        there and known[at + i] != data[i] for i, there in enumerate(is_known[at:end])
    ):
        raise _QuicError
    known[at:end] = data
    is_known[at:end] = b"\1" * len(data)


def _messages(connection: _Connection) -> Iterator[Hello]:
    """Yield the complete hellos; a second one follows a server's retry."""
    known = connection.known
    whole = connection.is_known.find(0)
    whole = len(known) if whole < 0 else whole
    while connection.read + 4 <= whole:
        at = connection.read
        end = at + 4 + int.from_bytes(known[at + 1 : at + 4])
        if known[at] != _CLIENT_HELLO or end > MAX_HELLO:
            raise _QuicError
        if end > whole:
            return
        # guard: a hello that cannot be read is not passed over
        hello = read_message(bytes(known[at + 4 : end]))
        connection.read = end
        yield hello
