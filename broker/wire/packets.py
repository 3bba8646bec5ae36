"""Packets and descriptors both ways over a SEQPACKET socket: a carrier.

The host, the viewer and workers have such channels.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio
from typing_extensions import override

from broker.core import limits
from broker.wire import fdpass
from broker.wire.carrier import Carrier
from broker.wire.fdpass import Received
from broker.wire.memory import PAUSE_SECONDS, is_short_of_memory

_T = TypeVar("_T")
_S = TypeVar("_S", socket.socket, int)


async def when_ready(
    call: Callable[[], _T], wait: Callable[[_S], Awaitable[object]], sock: _S
) -> _T:
    """Call until it does not block, awaiting the socket between.  Raises OSError.

    Woken is not ready: epoll(7) remembers a number that was another file before.
    A moment without memory is waited for, too: it is not the far end's end.
    """
    while True:
        try:
            return call()
        except BlockingIOError:
            await wait(sock)
        except OSError as error:
            # guard: a moment without memory does not end a channel to our processes
            if not is_short_of_memory(error):
                raise
            await trio.sleep(PAUSE_SECONDS)


class Packets(Carrier):
    """One end of a SEQPACKET socket pair; owns the socket.

    One task sends and one receives at a time.
    """

    def __init__(
        self, sock: socket.socket, limit: int = limits.WORKER_MESSAGE_BYTES
    ) -> None:
        """``limit``: bytes of a packet that is received."""
        sock.settimeout(0)
        self._sock = sock
        self._limit = limit

    @override
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

    @override
    async def receive(self, fd_limit: int = 0) -> Received:
        """Wait for the next packet; empty when the other side has closed.

        Raises PeerError for a packet or a number of descriptors beyond what
        is allowed.
        """
        await trio.lowlevel.checkpoint()

        def receive() -> Received:
            self._check_open()
            return fdpass.receive(self._sock, self._limit, fd_limit)

        try:
            return await when_ready(receive, trio.lowlevel.wait_readable, self._sock)
        except ConnectionResetError:
            return Received(b"", ())

    def _check_open(self) -> None:
        # A task that was already to be woken when it was closed gets no error of
        # trio's.
        if self._sock.fileno() < 0:
            raise trio.ClosedResourceError

    @override
    def close(self) -> None:
        """Close the channel; tasks that wait in it get ClosedResourceError."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


def pair() -> tuple[Packets, socket.socket]:
    """Return our end, and the end to give away (close it after that)."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Packets(near), far
