"""Frames both ways over the stream socket between the authority and viewer or host.

All three run this module, each at its end.

``put`` never waits: it writes what the kernel takes at once, and keeps the rest, of
which there is a limit, for ``run``.  So a message can be sent from code that must not
be interrupted, and messages leave in the order in which they were put.
"""

from __future__ import annotations

import errno
import socket

import trio

from broker.core.errors import UpstreamError
from broker.core.framing import FrameReader

_READ_BYTES = 1 << 16
_LATER = {errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS}


class FrameLink:
    """One end; owns the socket.  One task receives, one runs ``run``."""

    def __init__(
        self, sock: socket.socket, *, receive_limit: int, waiting: int
    ) -> None:
        """Wrap a socket.

        ``receive_limit``: bytes of a frame, ``waiting``: of the queue.
        """
        sock.setblocking(False)  # noqa: FBT003 -- the socket module's own
        self._sock = sock
        self._frames = FrameReader(receive_limit)
        self._limit = waiting
        self._rest = bytearray()
        self._more = trio.Event()
        self._empty = trio.Event()
        self._empty.set()

    def put(self, frame: bytes) -> None:
        """Queue a frame.

        Raises UpstreamError when the far end has gone or does not read.
        """
        if self._sock.fileno() < 0:
            raise UpstreamError("the channel is closed")
        if not self._rest:
            frame = frame[self._write(frame) :]
        if not frame:
            return
        # guard: a far end that does not read holds bounded memory
        if len(self._rest) + len(frame) > self._limit:
            raise UpstreamError("the peer does not read its messages")
        if not self._rest:
            self._empty = trio.Event()
        self._rest += frame
        self._more.set()

    def _write(self, data: bytes | bytearray) -> int:
        try:
            return self._sock.send(data)
        except OSError as error:
            # guard: a moment without memory does not end a channel of the broker
            if error.errno in _LATER:
                return 0
            raise UpstreamError(f"the peer has closed the channel: {error}") from error

    @property
    def waiting(self) -> int:
        """Bytes that wait to be written."""
        return len(self._rest)

    async def wait_written(self) -> None:
        """Return when nothing waits to be written."""
        while self._rest:
            await self._empty.wait()

    async def run(self) -> None:
        """Write queued frames, until cancelled or the far end has gone."""
        while True:
            await self._more.wait()
            self._more = trio.Event()
            while self._rest:
                try:
                    await trio.lowlevel.wait_writable(self._sock)
                    del self._rest[: self._write(self._rest)]
                except (UpstreamError, trio.ClosedResourceError):
                    return  # the task that receives notices
            self._empty.set()

    async def receive(self) -> list[bytes]:
        """Wait for the next frames; none when the far end has closed.

        Raises PeerError for a frame beyond the limit.
        """
        while True:
            await trio.lowlevel.checkpoint()
            try:
                data = self._sock.recv(_READ_BYTES)
            except OSError as error:
                if error.errno not in _LATER:
                    return []
                try:
                    await trio.lowlevel.wait_readable(self._sock)
                except trio.ClosedResourceError:
                    return []
                continue
            if not data:
                return []
            frames = self._frames.feed(data)
            if frames:
                return frames

    def close(self) -> None:
        """Close the link; a task that waits in it returns as if the far end had closed."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
