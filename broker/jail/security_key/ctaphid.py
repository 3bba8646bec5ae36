"""CTAPHID: messages in reports of 64 bytes (CTAP 2.1, 11.2).

The first report of a message: channel, command with bit 7, length, 57 bytes.
The ones after it: channel, a sequence number from 0 to 127, 59 bytes.

The process of a security key runs it, not the worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from broker.core.errors import PeerError
from broker.core.limits import devices as limits

REPORT_BYTES = 64
BROADCAST = 0xFFFFFFFF
_FIRST, _NEXT = REPORT_BYTES - 7, REPORT_BYTES - 5


class CtapHidCommand(IntEnum):
    """Commands, without bit 7."""

    PING = 0x01
    MSG = 0x03
    LOCK = 0x04
    INIT = 0x06
    WINK = 0x08
    CBOR = 0x10
    CANCEL = 0x11
    KEEPALIVE = 0x3B
    ERROR = 0x3F


class CtapHidError(IntEnum):
    """Codes of ``CtapHidCommand.ERROR``."""

    INVALID_CMD = 0x01
    INVALID_LEN = 0x03
    INVALID_SEQ = 0x04
    CHANNEL_BUSY = 0x06
    INVALID_CHANNEL = 0x0B
    OTHER = 0x7F


@dataclass(frozen=True)
class CtapHidMessage:
    """One message, whole."""

    channel: int
    command: int
    payload: bytes


def reports_of(message: CtapHidMessage) -> list[bytes]:
    """Split a message into reports of 64 bytes.  Raises ValueError."""
    if len(message.payload) > limits.CTAP_MESSAGE_BYTES:
        raise ValueError(f"the CTAPHID message has {len(message.payload)} bytes")
    channel = message.channel.to_bytes(4, "big")
    head = channel + bytes([message.command | 0x80])
    head += len(message.payload).to_bytes(2, "big")
    found = [head + message.payload[:_FIRST]]
    rest = message.payload[_FIRST:]
    for number, at in enumerate(range(0, len(rest), _NEXT)):
        found.append(channel + bytes([number]) + rest[at : at + _NEXT])
    return [report.ljust(REPORT_BYTES, b"\0") for report in found]


class Assembler:
    """Puts reports together; holds one message that is not whole."""

    def __init__(self) -> None:
        self._head: tuple[int, int, int] | None = None
        self._data = b""
        self._sequence = 0

    @property
    def channel(self) -> int | None:
        """The channel of the incomplete message, if there is one."""
        return None if self._head is None else self._head[0]

    def drop(self) -> None:
        """Forget a message that is not whole."""
        self._head, self._data = None, b""

    def feed(self, report: bytes) -> CtapHidMessage | tuple[int, CtapHidError] | None:
        """Add a report; return a whole message, or (channel, error), or None.

        Raises PeerError for bytes that are not a report.
        """
        if len(report) != REPORT_BYTES:
            raise PeerError(f"the HID report has {len(report)} bytes")
        channel = int.from_bytes(report[:4], "big")
        if report[4] & 0x80:
            return self._begin(channel, report)
        return self._go_on(channel, report)

    def _begin(
        self, channel: int, report: bytes
    ) -> CtapHidMessage | tuple[int, CtapHidError] | None:
        """Begin a message by its first report; return an error to answer."""
        command, size = report[4] & 0x7F, int.from_bytes(report[5:7], "big")
        if size > limits.CTAP_MESSAGE_BYTES:
            return channel, CtapHidError.INVALID_LEN
        if self._head is not None and command not in {
            CtapHidCommand.INIT,
            CtapHidCommand.CANCEL,
        }:
            if channel != self._head[0]:
                return channel, CtapHidError.CHANNEL_BUSY
            self.drop()
            return channel, CtapHidError.INVALID_SEQ
        if size <= _FIRST:
            if self._head is not None and channel == self._head[0]:
                self.drop()
            return CtapHidMessage(channel, command, report[7 : 7 + size])
        self._head, self._data, self._sequence = (channel, command, size), report[7:], 0
        return None

    def _go_on(
        self, channel: int, report: bytes
    ) -> CtapHidMessage | tuple[int, CtapHidError] | None:
        """Add a report to the message; return it when complete, or an error."""
        if self._head is None or channel != self._head[0]:
            return None  # spurious: to be ignored (11.2.4)
        if report[4] != self._sequence:
            self.drop()
            return channel, CtapHidError.INVALID_SEQ
        self._sequence += 1
        self._data += report[5:]
        _, command, size = self._head
        if len(self._data) < size:
            return None
        made = CtapHidMessage(channel, command, self._data[:size])
        self.drop()
        return made
