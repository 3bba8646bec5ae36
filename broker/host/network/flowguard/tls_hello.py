"""The server's name in the first bytes of a TLS connection (RFC 8446, RFC 6066).

Sans-IO.  Only the fields that lead to the name are read.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_HELLO = 1 << 14
"""Bytes in which a name has to be found; a hello is one or two KiB."""
MAX_HELLO_STREAM = 2 * MAX_HELLO
"""Those bytes with the heads of the records in which they are."""
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _ENCRYPTED = 0, 0xFE0D


class HelloError(ValueError):
    """The connection began as TLS does, and its hello cannot be read."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        value = self.data[self.at : self.at + size]
        if len(value) < size:
            raise HelloError("a hello is cut")
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


def read_hello(untrusted_data: bytes) -> Hello | None:
    """Return what a connection begins with; None: more bytes are needed.

    Raises HelloError.
    """
    if not untrusted_data:
        return None
    if untrusted_data[0] != _HANDSHAKE:
        return Hello()
    hello = _hello(untrusted_data)
    return None if hello is None else read_message(hello)


def _hello(data: bytes) -> bytes | None:
    """Put a hello together from its records; None: more bytes are needed."""
    body = bytearray()
    at = 0
    while at + 5 <= len(data):
        if data[at] != _HANDSHAKE or data[at + 1] != 3:
            raise HelloError("not a handshake")
        size = int.from_bytes(data[at + 3 : at + 5])
        if not 0 < size <= MAX_HELLO:
            raise HelloError("a record of a wrong size")
        body += data[at + 5 : at + 5 + size]
        at += 5 + size
        if body and body[0] != _CLIENT_HELLO:
            raise HelloError("not a hello")
        end = 4 + int.from_bytes(body[1:4]) if len(body) >= 4 else 4
        # guard: a hello is bounded
        if end > MAX_HELLO or at > MAX_HELLO_STREAM:
            raise HelloError("a hello is too long")
        if 4 < end <= len(body):
            return bytes(body[4:end])
    return None


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
    found, encrypted = "", False
    while extensions.at < len(extensions.data):
        kind, value = extensions.number(2), _Reader(extensions.vector(2))
        encrypted |= kind == _ENCRYPTED
        if kind == _SERVER_NAME:
            # guard: one name
            if found:
                raise HelloError("two names")
            names = _Reader(value.vector(2))
            if names.number(1) != 0:
                raise HelloError("a name of another kind")
            raw = names.vector(2)
            if names.at != len(names.data):
                raise HelloError("two names")
            try:
                found = raw.decode("ascii").lower().removesuffix(".")
            except UnicodeDecodeError:
                raise HelloError("a name is not ASCII") from None
    return Hello(found, encrypted)
