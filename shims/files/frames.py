"""The frames of a call's stream.

After the broker's answer both programs frame the stream for each other, and nothing
between them reads it: a byte for the kind and four for a length (``>BI``), then so
many bytes.  A frame of data without bytes is the end of that direction, since some
machines' sockets cannot be half-closed; a frame of the exit code is the last one.
"""

from __future__ import annotations

import _socket
import _thread
import os
import select
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import BufferedReader
    from typing import Callable, Optional

CALL_HEADER = struct.Struct(">BI")
CALL_DATA, CALL_EXIT = 0, 1
COPY_PIECE = 1 << 18
# A write of more bytes becomes several packets in newer kernels, and
# vhost-device-vsock 0.3 loses all but the first.
PIECE_BYTES = 28672
# A small file is one of many: each read or write of its own is a packet, and each
# packet interrupts the machine.
READ_AHEAD_BYTES = 1 << 16
EXIT_BROKEN = 125  # the call was refused, or ended without an exit code


class CallStream:
    """The frames of one call."""

    def __init__(self, sock: _socket.socket, reader: BufferedReader) -> None:
        self._socket = sock
        self._reader = reader
        vsock = sock.family == _socket.AF_VSOCK
        self._piece = PIECE_BYTES - CALL_HEADER.size if vsock else COPY_PIECE
        self._lock = _thread.allocate_lock()

    def send_from(self, fd: int, wake: int = -1) -> None:
        """Send what can be read from ``fd`` until its end, then the end of data.

        ``wake``: once it is readable, only data that is there already is sent.
        """
        watched = [fd] if wake < 0 else [fd, wake]
        while True:
            if wake >= 0:
                ready = select.select(watched, [], [])[0]
                if fd not in ready and not select.select([fd], [], [], 0)[0]:
                    break
            data = os.read(fd, self._piece)
            if not data:
                break
            self._send(CALL_DATA, data)
        self._send(CALL_DATA, b"")

    def send_code(self, code: int) -> None:
        """Send the exit code, the last frame."""
        self._send(CALL_EXIT, bytes([code & 0xFF]))

    def _send(self, kind: int, data: bytes) -> None:
        """Send one frame, whole."""
        with self._lock:
            if len(data) < PIECE_BYTES:
                self._socket.sendall(CALL_HEADER.pack(kind, len(data)) + data)
            else:
                self._socket.sendall(CALL_HEADER.pack(kind, len(data)))
                self._socket.sendall(data)

    def receive_to(self, fd: int, ended: Callable[[], None]) -> Optional[int]:
        """Write received data to ``fd`` until the exit code, and return that.

        ``ended`` is called at the end of data.  None: the stream broke off.
        """
        open_, buffer = True, memoryview(b"")
        while True:
            head = self._reader.read(CALL_HEADER.size)
            if len(head) < CALL_HEADER.size:
                return None
            kind, left = CALL_HEADER.unpack(head)
            if kind == CALL_EXIT and left == 1:
                code = self._reader.read(1)
                return code[0] if code else None
            if kind != CALL_DATA:
                return None
            if not left:
                ended()
                open_ = False
            elif not buffer:
                buffer = memoryview(bytearray(COPY_PIECE))
            while left:
                got = self._reader.readinto1(buffer[: min(left, COPY_PIECE)])
                if not got:
                    return None
                left -= got
                open_ = open_ and write_all(fd, buffer[:got])


def write_all(fd: int, data: memoryview) -> bool:
    """Write all data; return whether the reader is still there."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        return False
    return True
