"""A USB device of a test: speaks URBs over a stream, as a kernel's usbip-host does.

Serves what a kernel asks while it enumerates a device, by the control endpoint alone:
descriptors, strings, configuration.  Source: Documentation/usb/usbip_protocol.rst;
USB 2.0, 9.4 and 9.6.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import NamedTuple

import trio

_HEADER = struct.Struct(">5I")
_SUBMIT_REST = struct.Struct(">5i8s")
_UNLINK_REST = struct.Struct(">I24x")
_SUBMIT, _UNLINK, _RET_SUBMIT, _RET_UNLINK = 1, 2, 3, 4
_IN = 1
_STALL = -32
_GET_STATUS, _GET_DESCRIPTOR = 0, 6
_DEVICE, _CONFIGURATION, _STRING = 1, 2, 3

HIGH_SPEED = 3
"""enum usb_device_speed."""


class Setup(NamedTuple):
    """A control request (USB 2.0, 9.3)."""

    kind: int
    request: int
    value: int
    index: int
    length: int


class VirtualDevice:
    """A device with one interface of a vendor's class, to which no driver binds."""

    def __init__(self, vendor: int, product: int, *strings: str) -> None:
        """``strings``: manufacturer, product, serial number."""
        self.strings = strings
        self.configured = trio.Event()
        self._device = struct.pack(
            "<BBHBBBBHHHBBBB",
            *(18, _DEVICE, 0x0200, 0, 0, 0, 64, vendor, product, 0x0100, 1, 2, 3, 1),
        )
        interface = struct.pack("9B", 9, 4, 0, 0, 0, 0xFF, 0, 0, 0)
        length = 9 + len(interface)
        head = struct.pack("<BBHBBBBB", 9, _CONFIGURATION, length, 1, 1, 0, 0x80, 50)
        self._configuration = head + interface

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer until the kernel hangs up, or the test does."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._serve(stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        while head := await _exactly(stream, _HEADER.size):
            command, number, _devid, direction, _endpoint = _HEADER.unpack(head)
            rest = await _exactly(stream, _SUBMIT_REST.size)
            if command == _UNLINK:
                await stream.send_all(_unlinked(number))
                continue
            assert command == _SUBMIT, command
            _flags, length, _frame, _packets, _interval, setup = _SUBMIT_REST.unpack(
                rest
            )
            if direction != _IN:
                await _exactly(stream, length)
            answer = self._answer(Setup(*struct.unpack("<BBHHH", setup)))
            await stream.send_all(_returned(number, answer, length))

    def _answer(self, setup: Setup) -> bytes | None:
        """Return the data of a request; None: refused."""
        if setup.kind == 0x80 and setup.request == _GET_DESCRIPTOR:
            return self._descriptor(setup.value >> 8, setup.value & 0xFF)
        if setup.request == _GET_STATUS:
            return b"\0\0"
        if setup.kind == 0 and setup.request == 9:
            self.configured.set()
        return b"" if not setup.kind & 0x80 else None

    def _descriptor(self, kind: int, number: int) -> bytes | None:
        if kind == _DEVICE:
            return self._device
        if kind == _CONFIGURATION:
            return self._configuration
        if kind != _STRING:
            return None
        if number == 0:
            return struct.pack("<BBH", 4, _STRING, 0x0409)
        text = self.strings[number - 1].encode("utf-16-le")
        return bytes((2 + len(text), _STRING)) + text


def _returned(number: int, answer: bytes | None, length: int) -> bytes:
    data = (answer or b"")[:length]
    status = _STALL if answer is None else 0
    head = _HEADER.pack(_RET_SUBMIT, number, 0, 0, 0)
    return head + struct.pack(">5i8x", status, len(data), 0, 0, 0) + data


def _unlinked(number: int) -> bytes:
    return _HEADER.pack(_RET_UNLINK, number, 0, 0, 0) + _UNLINK_REST.pack(0)


async def _exactly(stream: trio.SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.receive_some(size - len(data))
        if not more:
            return b""
        data += more
    return data
