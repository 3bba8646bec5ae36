"""Wayland's wire format: whole messages, values, and descriptors beside bytes."""

from __future__ import annotations

import contextlib
import os
import struct
from typing import Any, Iterator, Sequence

from shims.x11.message_table import MESSAGES, WireMessage

_HEAD = struct.Struct("<II")
MOST_FDS = 28
"""Descriptors in one sendmsg, as libwayland has it."""


class BridgeError(Exception):
    """Why this connection, and with it all X11 windows, ends."""


def numbers(data: bytes) -> tuple[int, ...]:
    """Return the 32-bit values of an array."""
    return struct.unpack(f"<{len(data) // 4}I", data[: len(data) & ~3])


class Stream:
    """One end of a connection, without its socket: received bytes, and bytes to be sent."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.received = bytearray()
        self.received_fds: list[int] = []
        self.out = bytearray()
        self._out_fds: list[tuple[int, int]] = []  # start of its message, descriptor

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Take what the socket had."""
        self.received += data
        self.received_fds += fds

    def piece(self) -> tuple[bytes, list[int]]:
        """Return what one sendmsg may take: no message before its descriptors."""
        now, later = self._out_fds[:MOST_FDS], self._out_fds[MOST_FDS:]
        end = later[0][0] if later else None
        return bytes(self.out[:end]), [fd for _, fd in now]

    def sent(self, count: int, fds: list[int]) -> None:
        """Remove sent bytes and descriptors from the queue."""
        for fd in fds:
            os.close(fd)
        del self.out[:count]
        later = self._out_fds[len(fds) :]
        self._out_fds = [(max(0, start - count), fd) for start, fd in later]

    def close(self) -> None:
        """Close descriptors that wait in either direction."""
        for fd in [*self.received_fds, *(fd for _, fd in self._out_fds)]:
            os.close(fd)
        self.received_fds, self._out_fds = [], []


class WireEnd(Stream):
    """One end of a Wayland connection."""

    def messages(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield whole messages: object, opcode, body.  Raises BridgeError."""
        while len(self.received) >= 8:
            oid, head = _HEAD.unpack_from(self.received)
            size = head >> 16
            if size < 8 or size % 4:
                raise BridgeError(f"{self.peer} sent a message of {size} bytes")
            if len(self.received) < size:
                return
            body = bytes(self.received[8:size])
            del self.received[:size]
            yield oid, head & 0xFFFF, body

    def decode(
        self, mark: str, interface: str, opcode: int, body: bytes
    ) -> tuple[WireMessage, list[Any]]:
        """Decode a message to an object.  Raises BridgeError."""
        message, values, at = MESSAGES.get((mark, interface, opcode)), [], 0
        if message is None:
            raise BridgeError(f"{self.peer} sent unknown {interface} message {opcode}")
        try:
            if message.words is not None:
                return message, [*message.words.unpack_from(body)]
            for kind in message.kinds:
                if kind == "h":
                    values.append(self.received_fds.pop(0))
                    continue
                (word,) = struct.unpack_from("<i" if kind in "if" else "<I", body, at)
                at += 4
                if kind == "f":
                    word /= 256
                elif kind in "sa":
                    (data,) = struct.unpack_from(f"{word}s", body, at)
                    at += (word + 3) & ~3
                    word = data if kind == "a" else data[:-1].decode("utf-8", "replace")
                values.append(word)
        except (struct.error, IndexError):
            raise BridgeError(
                f"{self.peer} sent an invalid {interface}.{message.name}"
            ) from None
        return message, values

    def put(self, oid: int, message: WireMessage, values: Sequence[Any]) -> None:
        """Queue a message; objects and new ids are numbers."""
        start, body = len(self.out), bytearray()
        if message.words is not None:
            with contextlib.suppress(struct.error):  # None, or a number out of range
                body += message.words.pack(*values)
                values = ()
        for kind, value in zip(message.kinds, values):
            if kind == "h":
                self._out_fds.append((start, value))
            elif kind in "uoOn":
                body += struct.pack("<I", (value or 0) & 0xFFFFFFFF)
            elif kind == "i":
                body += struct.pack("<i", max(-(1 << 31), min(value, (1 << 31) - 1)))
            elif kind == "f":
                body += struct.pack("<i", round(value * 256))
            else:
                data = value or b""  # no string at all has no bytes
                if isinstance(value, str):
                    data = value.encode("utf-8", "replace") + b"\0"
                body += struct.pack("<I", len(data)) + data + b"\0" * (-len(data) % 4)
        self.out += _HEAD.pack(oid, len(body) + 8 << 16 | message.opcode) + body
