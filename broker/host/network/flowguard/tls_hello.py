"""The server's name in the first bytes of a TLS connection (RFC 8446, RFC 6066).

Sans-IO.  Only the fields that lead to the name are read.

The packet guard of a sandbox runs this, jailed; the host only starts it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

MAX_HELLO = 1 << 14
"""Bytes in which a name has to be found; a hello is one or two KiB."""
MAX_HELLO_STREAM = 2 * MAX_HELLO
"""Those bytes with the heads of the records in which they are."""
HANDSHAKE, _CLIENT_HELLO, _EARLY_DATA = 22, 1, 23
_RECORDS = frozenset(range(20, 27))
"""Types of TLS's records; their second byte is 3, the version's."""
TLS_PORTS = frozenset(
    {443, 465, 563, 636, 989, 990, 992, 993, 995} | {5061, 5349, 5671, 6514, 6697, 8883}
)
"""TCP ports that are assigned to a protocol within TLS: of the web, mail, news, LDAP,
FTP, telnet, SIP, TURN, AMQP, syslog, IRC and MQTT.  853 is closed."""
_SSH, _STUN = b"SSH-", b"\x21\x12\xa4\x42"
_SEALED = 256
"""By so many bytes an encrypted record may be longer."""
_FIRST = frozenset({HANDSHAKE})
_LATER = _FIRST | {20, 21, _EARLY_DATA}
"""Records: between two hellos a change of ciphers, an alert and early data may be."""
ANSWER = 43
"""Bytes of a server's first record up to the end of its random."""
_RETRY = hashlib.sha256(b"HelloRetryRequest").digest()
"""The random of a server that asks for another hello."""
_SERVER_NAME, _ENCRYPTED = 0, 0xFE0D


class HelloError(ValueError):
    """The connection began as TLS does, and its hello cannot be read."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        value = self.data[self.at : self.at + size]
        if len(value) < size:
            raise HelloError("truncated ClientHello")
        self.at += size
        return value

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> bytes:
        return self.take(self.number(size))


class Hello(NamedTuple):
    """``name``: the server's; '' in a hello without one, and in bytes that are not TLS.

    ``encrypted``: another hello is inside of it, or looks so (RFC 9849; "GREASE").
    """

    name: str = ""
    encrypted: bool = False


def read_hellos(
    untrusted_data: bytes, read: int = 0, *, required: bool = False
) -> list[Hello]:
    """Return the complete TLS hellos in a connection's first bytes.

    Without the first ``read``, which were read before.  A second one follows a server's
    retry.  What is not TLS counts as one without a name, unless one is ``required``.
    Raises HelloError.
    """
    kind, version = untrusted_data[:1], untrusted_data[1:2]
    if kind and kind[0] in _RECORDS - _FIRST:
        if not version:
            return []
        # Go's and BoringSSL's servers take warnings before a hello.
        # guard: no other record precedes a hello
        if version == b"\3":
            raise HelloError("another record before it")
    if kind not in {b"", b"\x16"}:
        # guard: at a port of TLS a connection begins with a hello
        is_other = _is_other(untrusted_data) if required else True
        if is_other is False:
            raise HelloError("not TLS, at a port of TLS")
        return [Hello()] if is_other else []
    # guard: a hello is read once
    fresh = islice(_hellos(untrusted_data), read, None)
    return [read_message(hello) for hello in fresh]


def _is_other(data: bytes) -> bool | None:
    """Return whether it is a protocol that is usual at ports of TLS, too.

    Forges have ssh at port 443, where networks have no other, and calls by video TURN
    (RFC 8489, 5).  What may be before the hello at some servers, such as the header of
    the PROXY protocol, is not TLS.  None: more bytes are needed.
    """
    if data[0] == 0:
        return None if len(data) < 8 else data[4:8] == _STUN
    if len(data) < len(_SSH) and _SSH.startswith(data):
        return None
    return data.startswith(_SSH)


def _hellos(data: bytes) -> Iterator[bytes]:
    """Yield the TLS hello messages, joined from their records.  Raises HelloError."""
    body = bytearray()
    at, expected = 0, _FIRST
    while at + 5 <= len(data):
        kind = data[at]
        if kind not in expected or data[at + 1] != 3:
            raise HelloError("not a handshake record")
        size = int.from_bytes(data[at + 3 : at + 5])
        if not 0 < size <= MAX_HELLO + (kind == _EARLY_DATA) * _SEALED:
            raise HelloError("invalid record size")
        if kind == HANDSHAKE:
            body += data[at + 5 : at + 5 + size]
            expected = _FIRST
        at += 5 + size
        # guard: hellos are bounded
        if at > MAX_HELLO_STREAM:
            raise HelloError("ClientHello too long")
        while body:
            if body[0] != _CLIENT_HELLO:
                raise HelloError("not a ClientHello")
            end = 4 + int.from_bytes(body[1:4]) if len(body) >= 4 else 4
            # guard: a hello is bounded
            if end > MAX_HELLO:
                raise HelloError("ClientHello too long")
            if not 4 < end <= len(body):
                break
            yield bytes(body[4:end])
            del body[:end]
            expected = _LATER


def asks_again(untrusted_answer: bytes) -> bool | None:
    """Return whether a server's first bytes request a second hello (RFC 8446, 4.1.4).

    None: more bytes are needed.
    """
    if untrusted_answer[:1] not in {b"", b"\x16"}:
        return False
    if len(untrusted_answer) < ANSWER:
        return None
    return untrusted_answer[ANSWER - len(_RETRY) : ANSWER] == _RETRY


def read_message(hello: bytes) -> Hello:
    """Read the body of a ClientHello (RFC 8446, 4.1.2).  Raises HelloError."""
    reader = _Reader(hello)
    reader.take(34)  # version, random
    reader.vector(1)  # session
    reader.vector(2)  # ciphers
    reader.vector(1)  # compression
    if reader.at == len(hello):
        return Hello()
    extensions = _Reader(reader.vector(2))
    server_name, encrypted = "", False
    while extensions.at < len(extensions.data):
        kind, value = extensions.number(2), _Reader(extensions.vector(2))
        encrypted |= kind == _ENCRYPTED
        if kind == _SERVER_NAME:
            # guard: a hello names one server
            if server_name:
                raise HelloError("more than one server name")
            names = _Reader(value.vector(2))
            if names.number(1) != 0:
                raise HelloError("unsupported type of server name")
            raw = names.vector(2)
            if names.at != len(names.data):
                raise HelloError("more than one server name")
            try:
                server_name = raw.decode("ascii").lower().removesuffix(".")
            except UnicodeDecodeError:
                raise HelloError("server name not ASCII") from None
    return Hello(server_name, encrypted)
