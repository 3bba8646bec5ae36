"""A software token: CTAPHID and enough of CTAP2 and U2F to be used for real.

ES256 by ``cryptography``; it speaks reports over a socket, as hidraw does.
"""

from __future__ import annotations

import hashlib
import os

import trio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from broker.devices import cbor
from broker.devices.ctaphid import Assembler, Command, Message, reports_of

CHANNEL = 0x00C0FFEE


def encode(value) -> bytes:
    """CBOR, for what the tests send."""
    if isinstance(value, bool):
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        return _head(0, value) if value >= 0 else _head(1, -1 - value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        return _head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return _head(4, len(value)) + b"".join(map(encode, value))
    body = b"".join(encode(k) + encode(v) for k, v in value.items())
    return _head(5, len(value)) + body


def _head(kind: int, number: int) -> bytes:
    for info, size in ((24, 1), (25, 2), (26, 4)):
        if number < 24:
            return bytes([kind << 5 | number])
        if number < 1 << 8 * size:
            return bytes([kind << 5 | info]) + number.to_bytes(size, "big")
    raise ValueError(number)


class Token:
    """The key itself: sans-IO, reports in and reports out."""

    def __init__(self):
        self._in = Assembler()
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.seen = []
        """Commands that reached it, with their first byte."""
        self.silent = False
        self.touched = True
        """Whether the person touches it; U2F says so at once, and is asked again."""

    def feed(self, report: bytes) -> list[bytes]:
        message = self._in.feed(report)
        if not isinstance(message, Message):
            return []
        self.seen.append((message.command, message.payload[:1]))
        if message.command == Command.INIT:
            answer = (
                message.payload + CHANNEL.to_bytes(4, "big") + bytes([2, 5, 0, 0, 5])
            )
            return reports_of(Message(message.channel, Command.INIT, answer))
        assert message.channel == CHANNEL
        if message.command == Command.CANCEL or self.silent:
            return []
        keepalive = Message(CHANNEL, Command.KEEPALIVE, b"\x02")
        answer = self._answer(message.payload)
        if message.command == Command.MSG:
            answer = b"\x01signature\x90\x00" if self.touched else b"\x69\x85"
        return [
            *reports_of(keepalive),
            *reports_of(Message(CHANNEL, message.command, answer)),
        ]

    def _answer(self, payload: bytes) -> bytes:
        if payload[0] == 0x04:
            return b"\0" + encode({1: ["FIDO_2_0"], 3: b"\x11" * 16})
        if payload[0] == 0x02:
            asked = cbor.decode(payload[1:])
            data = hashlib.sha256(asked[1].encode()).digest() + b"\x01" + bytes(4)
            signature = self.private.sign(data + asked[2], ec.ECDSA(hashes.SHA256()))
            return b"\0" + encode({2: data, 3: signature})
        return b"\0"


def assertion(host: str, challenge: bytes = b"") -> bytes:
    """The payload of authenticatorGetAssertion."""
    return b"\x02" + encode({1: host, 2: challenge or os.urandom(32)})


async def serve_token(sock, token):
    """The token behind its hidraw device: a report's number, then the report."""
    while True:
        await trio.lowlevel.wait_readable(sock)
        try:
            data = sock.recv(65)
        except BlockingIOError:
            continue
        if not data:
            return
        assert (len(data), data[0]) == (65, 0)
        for report in token.feed(data[1:]):
            sock.send(report)
