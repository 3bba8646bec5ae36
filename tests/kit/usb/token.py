"""A software token: CTAPHID and enough of CTAP2 and U2F to be used for real.

ES256 by ``cryptography``; it speaks reports over a socket, as hidraw does.
"""

from __future__ import annotations

import hashlib
import os

import trio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from broker.jail.security_key import cbor
from broker.jail.security_key.cbor import encode
from broker.jail.security_key.ctaphid import (
    Assembler,
    CtapHidCommand,
    CtapHidMessage,
    reports_of,
)

CHANNEL = 0x00C0FFEE
HANDLE = {"id": b"h" * 64, "type": "public-key"}


class Token:
    """The key itself: sans-IO, reports in and reports out."""

    def __init__(self):
        self._in = Assembler()
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.seen = []
        """Commands that reached it, with their first byte."""
        self.silent = False
        self.accounts = 1
        """Credentials for each relying party; getNextAssertion tells the others."""
        self.tries = 8
        """Wrong PINs until it locks itself."""
        self.touched = True
        """Whether the person touches it; U2F says so at once, and is asked again."""

    def feed(self, report: bytes) -> list[bytes]:
        message = self._in.feed(report)
        if not isinstance(message, CtapHidMessage):
            return []
        self.seen.append((message.command, message.payload[:1]))
        if message.command == CtapHidCommand.INIT:
            answer = (
                message.payload + CHANNEL.to_bytes(4, "big") + bytes([2, 5, 0, 0, 5])
            )
            return reports_of(
                CtapHidMessage(message.channel, CtapHidCommand.INIT, answer)
            )
        assert message.channel == CHANNEL
        if message.command == CtapHidCommand.CANCEL or self.silent:
            return []
        keepalive = CtapHidMessage(CHANNEL, CtapHidCommand.KEEPALIVE, b"\x02")
        answer = self._answer(message.payload)
        if message.command == CtapHidCommand.MSG:
            answer = self._u2f(message.payload)
        return [
            *reports_of(keepalive),
            *reports_of(CtapHidMessage(CHANNEL, message.command, answer)),
        ]

    def _u2f(self, apdu: bytes) -> bytes:
        first = apdu[2] if apdu[1] == 2 else 3
        if first == 8 or (first == 3 and self.touched):
            return b"\x01signature\x90\x00"
        return b"\x69\x85"

    def _pin(self, asked) -> bytes:
        if asked[2] == 1:
            return b"\0" + encode({3: self.tries})
        if not self.tries:
            return b"\x32"
        self.tries = 8 if asked.get(6) == b"right" else self.tries - 1
        return b"\0" + encode({2: bytes(32)}) if self.tries == 8 else b"\x31"

    def _answer(self, payload: bytes) -> bytes:
        if payload[0] == 0x04:
            return b"\0" + encode({1: ["FIDO_2_0"], 3: b"\x11" * 16})
        if payload[0] == 0x06:
            return self._pin(cbor.decode(payload[1:]))
        if payload[0] == 0x02:
            asked = cbor.decode(payload[1:])
            silent = asked.get(5, {}).get("up") is False
            if not silent and not self.touched:
                return b"\x2f"  # the time for the touch is over
            flags = b"\0" if silent else b"\x01"
            data = hashlib.sha256(asked[1].encode()).digest() + flags + bytes(4)
            signature = self.private.sign(data + asked[2], ec.ECDSA(hashes.SHA256()))
            found = {2: data, 3: signature}
            if asked.get(3):
                found = {1: asked[3][0], **found, 4: {"id": b"u" * 16}}
            if self.accounts > 1:
                found[5] = self.accounts
            return b"\0" + encode(found)
        return b"\0"


def pin(word: bytes) -> bytes:
    """The payload of getPinToken, not encrypted: a software token's."""
    return b"\x06" + encode({1: 1, 2: 5, 6: word})


def assertion(host: str, challenge: bytes = b"", **options: bool) -> bytes:
    """The payload of authenticatorGetAssertion; with ``options``, for a known handle."""
    asked = {1: host, 2: challenge or os.urandom(32)}
    if options:
        asked |= {3: [HANDLE], 5: options}
    return b"\x02" + encode(asked)


async def serve_token(sock, token):
    """The token of its hidraw device: a report's number, then the report."""
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
