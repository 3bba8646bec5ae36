"""Packets and descriptors over a SEQPACKET socket, as a trio object."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import trio

from broker.core import limits
from broker.ipc import fdpass
from broker.ipc.fdpass import Received


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
        while True:
            self._check_open()
            try:
                fdpass.send(self._sock, data, fds)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._sock)
            else:
                return

    async def receive(self, fd_limit: int = 0) -> Received:
        """Return the next packet; empty when the other side has closed.

        Raises PeerError for a packet or a number of descriptors beyond what
        is allowed.
        """
        await trio.lowlevel.checkpoint()
        while True:
            self._check_open()
            try:
                return fdpass.receive(self._sock, limits.WORKER_MESSAGE_BYTES, fd_limit)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._sock)
            except ConnectionResetError:
                return Received(b"", ())

    def _check_open(self) -> None:
        # Whoever was already to be woken when it was closed gets no error of
        # trio's.
        if self._sock.fileno() < 0:
            raise trio.ClosedResourceError

    def close(self) -> None:
        """Close it; tasks that wait in it get ClosedResourceError."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


def pair() -> tuple[Channel, socket.socket]:
    """Return our end, and the end to give away (close it after that)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(ours), theirs
