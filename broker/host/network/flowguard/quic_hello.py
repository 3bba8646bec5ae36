"""The server's name in the first packets of QUIC (RFC 9000, 9001 and 9369).

The keys of Initial packets are made of what everybody sees, so a hello is read like
TLS's.  It may be in several packets and in pieces of any order (browsers shuffle them).
A piece may not be sent again with other content, and each connection that a flow begins
is read: what the server puts together is what was read here.  Later packets are of the
connection by its identifier, which the server gives it in its first answer.

Sans-IO.  Needs ``load`` before the process gives up opening files.
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
_LONG, _FIXED = 0x80, 0x40
_ID_BYTES = 20
_SAMPLE = 16
_CLIENT_HELLO = 1
_PADDING, _PING, _CRYPTO, _CLOSED = 0, 1, 6, 0x1C
_ACKS = frozenset({2, 3})
MAX_CONNECTIONS = 3
"""Of one flow; a browser's has one, and two after a Retry."""
MAX_HELLO = 6 << 10
"""Bytes of a connection's hellos; one is two KiB.  A guest may have this 3,072 times."""
MAX_HELD = 6
"""Datagrams of a flow whose hello is not whole; a hello of two KiB has two."""
MAX_HELD_BYTES = 1 << 14
"""Of their frames; on a network's cable one has 1,500."""


class _QuicError(ValueError):
    """A packet that no server would take, or one that is not read."""


class _Packet(NamedTuple):
    """A long header: ``number_at`` is where the number begins in ``data``."""

    data: bytes
    version: int = 0
    connection: bytes | None = None
    """Of an Initial packet, the receiver's identifier."""
    number_at: int = 0
    receiver: bytes = b""
    """The identifier that it is sent to; of a short header, whose identifier has no
    length, all that it may be."""
    sender: bytes = b""
    early: bool = False
    """Data before the handshake (0-RTT)."""


@dataclass(eq=False)
class _Connection:
    """One side's Initial keys, and what the client has sent of its hello."""

    wanted: bytes
    """The identifier that the client has begun with."""
    key: AESGCM
    iv: bytes
    mask: Cipher[ECB]
    answered: bytes = b""
    """The identifier that the server has answered with; empty: there is none."""
    known: bytearray = field(default_factory=bytearray)
    is_known: bytearray = field(default_factory=bytearray)
    read: int = 0
    """Where the next message begins."""


class QuicHellos:
    """The hellos of one flow.

    ``unchecked`` has those that are whole; the caller removes permitted ones, and
    passes no datagram while there is one.
    """

    def __init__(self) -> None:
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
        if not untrusted_data:
            return False
        try:
            for packet in _packets(untrusted_data):
                if packet.connection is not None:
                    self._take_initial(packet, packet.version, packet.connection)
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
        return True

    def answer(self, data: bytes) -> None:
        """Read the server's first packet, which has its connection identifier.

        It is known by its keys, which follow from what the client has begun with.
        """
        waiting = [one for one in self._connections if not one.answered]
        if not waiting or data[:1] < b"\x80":
            return
        with suppress(_QuicError):
            for packet in _packets(data):
                for one in waiting if packet.connection is not None else ():
                    keys = _keys(packet.version, one.wanted, "server in")
                    # guard: answers to another connection do not count
                    if _opened(keys, packet) is not None:
                        one.answered = packet.sender

    def _is_known(self, packet: _Packet) -> bool:
        """Return whether a packet belongs to a connection whose hello was checked."""
        # guard: a connection continues after a whole hello
        whole = [one for one in self._connections if one.read]
        return any(
            packet.receiver == one.wanted
            if packet.early
            else one.answered and packet.receiver.startswith(one.answered)
            for one in whole
        )

    def _take_initial(self, packet: _Packet, version: int, wanted: bytes) -> None:
        """Decrypt an Initial packet and keep its part of the hello."""
        for connection in self._connections:
            payload = _opened(connection, packet)
            if payload is not None:
                break
        else:
            # guard: connections of a flow are few, and none is forgotten
            if len(self._connections) >= MAX_CONNECTIONS:
                raise _QuicError
            connection = _keys(version, wanted)
            payload = _opened(connection, packet)
            if payload is None:
                raise _QuicError
            self._connections.append(connection)
        self.reads = True
        for at, data in _pieces(payload):
            _put(connection, at, data)
        for hello in _messages(connection):
            self.unchecked.append(hello)
            self.begun = True


def load() -> None:
    """Have the library read all files that it needs."""
    _opened(_keys(1, bytes(8)), _Packet(bytes(64), 1, b"", 20))


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
        found = connection if is_initial else None
        yield _Packet(
            data[: reader.at],
            version,
            found,
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


def _keys(version: int, connection: bytes, side: str = "client in") -> _Connection:
    """Derive the keys of one side's Initial packets (RFC 9001, 5.2)."""
    known = _VERSIONS[version]
    secret = hmac.digest(known.salt, connection, hashlib.sha256)
    own = _expand(secret, side, 32)
    key, iv, mask = (
        _expand(own, known.label + name, size)
        for name, size in (("key", 16), ("iv", 12), ("hp", 16))
    )
    return _Connection(connection, AESGCM(key), iv, Cipher(AES(mask), ECB()))  # noqa: S305


def _opened(connection: _Connection, packet: _Packet) -> bytes | None:
    """Decrypt a packet; None if it does not belong to this connection."""
    data, at = packet.data, packet.number_at
    sample = data[at + 4 : at + 4 + _SAMPLE]
    if len(sample) < _SAMPLE:
        return None
    mask = connection.mask.encryptor().update(sample)
    first = data[0] ^ mask[0] & 0x0F
    size = (first & 3) + 1
    number = bytes(a ^ b for a, b in zip(data[at : at + size], mask[1:], strict=False))
    head = bytes([first]) + data[1:at] + number
    nonce = int.from_bytes(connection.iv) ^ int.from_bytes(number)
    try:
        return connection.key.decrypt(nonce.to_bytes(12), data[at + size :], head)
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
