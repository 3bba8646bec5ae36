"""A carrier to a process that a sandbox may have taken over: descriptors go one way.

Messages and descriptors go to that process by a socket on which nothing can come back,
and messages come from it by a pipe, because no descriptor can be attached to what
is written to a pipe.  A descriptor that is attached to a packet is closed by the process
that reads or drops the packet, and close(2) of a socket that lingers (or of a
file of FUSE) waits for as long as its maker has chosen.

The viewer writes orders and reads messages; the worker has the other ends.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence

import trio
from typing_extensions import override

from broker.core import limits
from broker.core.errors import PeerError
from broker.wire.carrier import Carrier
from broker.wire.fdpass import Received
from broker.wire.packets import Packets

_LENGTH = struct.Struct("<I")
_READ_BYTES = 1 << 14


class OneWay(Carrier):
    """The viewer's end: sends on a socket, receives from a pipe."""

    def __init__(self, orders: Packets, pipe: int) -> None:
        os.set_blocking(pipe, False)
        self._orders = orders
        self._pipe = pipe
        self._buffer = bytearray()

    @override
    async def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        await self._orders.send(data, fds)

    @override
    async def receive(self, fd_limit: int = 0) -> Received:
        """Wait for the next message; empty when the other side has closed.

        Raises PeerError for a message that is longer than
        WORKER_MESSAGE_BYTES, or empty.
        """
        await trio.lowlevel.checkpoint()
        while True:
            message = self._take()
            if message:
                return Received(message, ())
            if self._pipe < 0:
                raise trio.ClosedResourceError
            try:
                data = os.read(self._pipe, _READ_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._pipe)
                continue
            if not data:
                return Received(b"", ())
            self._buffer += data

    def _take(self) -> bytes:
        """Take a whole message out of the buffer; empty when there is none."""
        if len(self._buffer) < _LENGTH.size:
            return b""
        (length,) = _LENGTH.unpack_from(self._buffer)
        # guard: a worker's messages have a length
        if not 0 < length <= limits.WORKER_MESSAGE_BYTES:
            limit = limits.WORKER_MESSAGE_BYTES
            raise PeerError(f"the peer sent a message of {length} bytes (1 to {limit})")
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return b""
        message = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return message

    @override
    def close(self) -> None:
        """Close socket and pipe; tasks that wait get ClosedResourceError."""
        self._orders.close()
        if self._pipe >= 0:
            trio.lowlevel.notify_closing(self._pipe)
            os.close(self._pipe)
            self._pipe = -1


class MessagePipe:
    """The other end's way up; owns the descriptor.  One task sends at a time."""

    def __init__(self, pipe: int) -> None:
        os.set_blocking(pipe, False)
        self._pipe = pipe
        self._rest = b""

    async def send(self, data: bytes) -> None:
        """Write one message; waits while the viewer does not read.

        Raises OSError (EPIPE) when the viewer has closed.
        """
        await trio.lowlevel.checkpoint()
        self._rest += _LENGTH.pack(len(data)) + data
        while not self._write():
            await trio.lowlevel.wait_writable(self._pipe)

    def send_last(self, data: bytes) -> None:
        """Write what fits of one message without a wait, after any begun one."""
        self._rest += _LENGTH.pack(len(data)) + data
        self._write()

    def _write(self) -> bool:
        """Write what the pipe takes; return whether that was all."""
        try:
            self._rest = self._rest[os.write(self._pipe, self._rest) :]
        except BlockingIOError:
            return False
        return not self._rest


def one_way_pair() -> tuple[OneWay, socket.socket, int]:
    """Return the viewer's end, and the socket and the pipe to give away."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        # Data that the far end sends here must not get into our queue.
        # guard: a worker sends no descriptor
        ours.shutdown(socket.SHUT_RD)
        up, into = os.pipe2(os.O_CLOEXEC)
    except BaseException:
        ours.close()
        theirs.close()
        raise
    return OneWay(Packets(ours), up), theirs, into
