"""Channels between our own processes, as trio objects.

``Channel`` carries packets and descriptors both ways over a SEQPACKET socket.
``OrderChannel`` is the broker's end towards a process that a sandbox may have
taken over: orders and descriptors go down a socket that nothing can come back
on, and messages come up a pipe, because no descriptor can be attached to what
is written to a pipe.  One that is attached to a packet is closed by the process
that reads or drops the packet, and close(2) of a socket that lingers (or of a
file of FUSE) waits for as long as its maker has chosen.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from broker.core import limits
from broker.core.errors import PeerError
from broker.ipc import fdpass
from broker.ipc.fdpass import Received

_T = TypeVar("_T")
_Wait = Callable[[socket.socket], Awaitable[object]]
_PAUSE = 0.05
"""Seconds until a call is made again that the kernel had no memory for."""


async def when_ready(call: Callable[[], _T], wait: _Wait, sock: socket.socket) -> _T:
    """Call, and again after ``wait`` where it would block.  Raises OSError.

    A moment without memory is waited for, too: it is not the far end's end.
    """
    while True:
        try:
            return call()
        except BlockingIOError:
            await wait(sock)
        except OSError as error:
            # guard: a moment without memory does not end a channel to our processes
            if error.errno not in {errno.ENOMEM, errno.ENOBUFS}:
                raise
            await trio.sleep(_PAUSE)


class Channel:
    """One end of a SEQPACKET socket pair; owns the socket.

    One task sends and one receives at a time.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(0)
        self._sock = sock

    async def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send one packet; waits while the other side does not read.

        The caller keeps its copies of ``fds``.  Raises OSError (ECONNRESET,
        EPIPE) when the other side has closed.
        """
        await trio.lowlevel.checkpoint()

        def send() -> None:
            self._check_open()
            fdpass.send(self._sock, data, fds)

        await when_ready(send, trio.lowlevel.wait_writable, self._sock)

    async def receive(self, fd_limit: int = 0) -> Received:
        """Return the next packet; empty when the other side has closed.

        Raises PeerError for a packet or a number of descriptors beyond what
        is allowed.
        """
        await trio.lowlevel.checkpoint()

        def receive() -> Received:
            self._check_open()
            return fdpass.receive(self._sock, limits.WORKER_MESSAGE_BYTES, fd_limit)

        try:
            return await when_ready(receive, trio.lowlevel.wait_readable, self._sock)
        except ConnectionResetError:
            return Received(b"", ())

    def _check_open(self) -> None:
        # A task that was already to be woken when it was closed gets no error of
        # trio's.
        if self._sock.fileno() < 0:
            raise trio.ClosedResourceError

    def close(self) -> None:
        """Close it; tasks that wait in it get ClosedResourceError."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


_LENGTH = struct.Struct("<I")
_READ_BYTES = 1 << 14


class OrderChannel:
    """The broker's end: ``send`` orders down a socket, ``receive`` from a pipe."""

    def __init__(self, orders: Channel, pipe: int) -> None:
        os.set_blocking(pipe, False)
        self._orders = orders
        self._pipe = pipe
        self._buffer = bytearray()

    async def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """As ``Channel.send``."""
        await self._orders.send(data, fds)

    async def receive(self) -> bytes:
        """Return the next message; empty when the other side has closed.

        Raises PeerError for a message that is longer than
        WORKER_MESSAGE_BYTES, or empty.
        """
        await trio.lowlevel.checkpoint()
        while True:
            message = self._take()
            if message:
                return message
            if self._pipe < 0:
                raise trio.ClosedResourceError
            try:
                data = os.read(self._pipe, _READ_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._pipe)
                continue
            if not data:
                return b""
            self._buffer += data

    def _take(self) -> bytes:
        """Take a whole message out of the buffer; empty when there is none."""
        if len(self._buffer) < _LENGTH.size:
            return b""
        (length,) = _LENGTH.unpack_from(self._buffer)
        # guard: a worker's messages have a length
        if not 0 < length <= limits.WORKER_MESSAGE_BYTES:
            most = limits.WORKER_MESSAGE_BYTES
            raise PeerError(f"the peer sent a message longer than {most} bytes")
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return b""
        message = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return message

    def close(self) -> None:
        """Close both; tasks that wait in it get ClosedResourceError."""
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
        """Write one message; waits while the broker does not read.

        Raises OSError (EPIPE) when the broker has closed.
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
        """Write what the pipe takes; whether that was all."""
        try:
            self._rest = self._rest[os.write(self._pipe, self._rest) :]
        except BlockingIOError:
            return False
        return not self._rest


def order_pair() -> tuple[OrderChannel, socket.socket, int]:
    """Return the broker's end, and the socket and the pipe to give away."""
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
    return OrderChannel(Channel(ours), up), theirs, into


def pair() -> tuple[Channel, socket.socket]:
    """Return our end, and the end to give away (close it after that)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(ours), theirs
