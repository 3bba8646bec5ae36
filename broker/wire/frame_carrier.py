"""Frames both ways over a stream socket: a carrier that queues.

``put`` never waits: it writes what the kernel takes at once, and keeps the rest, of
which there is a limit, for ``run``.  So a message can be sent from code that must not
be interrupted, and messages leave in the order in which they were put.

The authority, viewer and host run this module, each at its end.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Sequence

import trio
from typing_extensions import override

from broker.core.errors import InternalError, UpstreamError
from broker.core.framing import FrameReader, encode_frame
from broker.wire.carrier import QueueingCarrier
from broker.wire.fdpass import Received
from broker.wire.memory import PAUSE_SECONDS, is_short_of_memory

_READ_BYTES = 1 << 16


class Frames(QueueingCarrier):
    """One end; owns the socket.  One task receives, one runs ``run``."""

    def __init__(
        self, sock: socket.socket, *, receive_bytes: int, send_bytes: int, waiting: int
    ) -> None:
        """Wrap a socket.

        ``receive_bytes``, ``send_bytes``: of a frame of the far end and of this one,
        ``waiting``: of the queue.
        """
        sock.setblocking(False)  # noqa: FBT003 -- the socket module's own
        self._sock = sock
        self._reader = FrameReader(receive_bytes)
        self._received: deque[bytes] = deque()
        self._send_bytes = send_bytes
        self._limit = waiting
        self._rest = bytearray()
        self._more = trio.Event()
        self._empty = trio.Event()
        self._empty.set()

    @override
    def put(self, data: bytes) -> None:
        try:
            frame = encode_frame(data, self._send_bytes)
        except ValueError as error:
            raise InternalError(f"a message cannot be sent: {error}") from error
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

    @override
    async def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        if fds:
            raise InternalError("a stream of frames has no descriptors")
        self.put(data)

    def _write(self, data: bytes | bytearray) -> int:
        """Write what the kernel takes now; return how many bytes."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            # guard: a moment without memory does not end a wire of frames
            if is_short_of_memory(error):
                return 0
            raise UpstreamError(f"the peer has closed the channel: {error}") from error

    @property
    def waiting(self) -> int:
        """Bytes that wait to be written."""
        return len(self._rest)

    async def wait_written(self) -> None:
        """Return when nothing waits to be written."""
        while self._rest and self._sock.fileno() >= 0:
            await self._empty.wait()

    async def finish(self, seconds: float) -> None:
        """Write what waits, within so many seconds, and close; not cancelled."""
        with trio.move_on_after(seconds, shield=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.run)
                await self.wait_written()
                nursery.cancel_scope.cancel()
        self.close()

    @override
    async def run(self) -> None:
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

    @override
    async def receive(self, fd_limit: int = 0) -> Received:
        # Frames that came together are handled before anything else happens.
        while not self._received:
            await trio.lowlevel.checkpoint()
            try:
                data = self._sock.recv(_READ_BYTES)
            except BlockingIOError:
                try:
                    await trio.lowlevel.wait_readable(self._sock)
                except trio.ClosedResourceError:
                    return Received(b"", ())
                continue
            except OSError as error:
                if not is_short_of_memory(error):
                    return Received(b"", ())
                await trio.sleep(PAUSE_SECONDS)
                continue
            if not data:
                return Received(b"", ())
            self._received.extend(self._reader.feed(data))
        return Received(self._received.popleft(), ())

    @override
    def close(self) -> None:
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
