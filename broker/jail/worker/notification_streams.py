"""In the worker: connections of the sandbox's notification daemon.

One task for each.  Frames are decoded here, at a pace, and passed on; a flood makes
its own sender wait.  Nothing is kept: which notification is shown is the broker's to know.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from broker.core.errors import InternalError, PeerError
from broker.core.escape import printable
from broker.core.framing import FrameReader
from broker.core.limits import notifications as limits
from broker.core.token_bucket import TokenBucket
from broker.ipc import fdpass
from broker.ipc.desktop import notification as messages
from broker.ipc.desktop.notification_guest import (
    ToDaemon,
    daemon_frame,
    decode_from_daemon,
)
from broker.jail.worker.framed_stream import FramedStream

Say = Callable[[messages.FromWorker], Awaitable[None]]


class WorkerNotifications:
    """All such connections of the sandbox."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._streams: dict[int, _Stream] = {}

    def obey(
        self, order: messages.ToWorker, fds: tuple[int, ...], nursery: trio.Nursery
    ) -> None:
        """Follow an order of the broker; takes ``fds`` over."""
        if isinstance(order, messages.NotificationAnswer):
            fdpass.close_all(fds)
            # It has ended meanwhile where it is not found: the answer comes too late.
            if (stream := self._streams.get(order.stream)) is not None:
                stream.answer(order.answer)
            return
        if len(fds) != 1:
            fdpass.close_all(fds)
            raise InternalError("a notification stream without its descriptor")
        made = _Stream(order.stream, socket.socket(fileno=fds[0]), self._say)
        self._streams[order.stream] = made
        nursery.start_soon(self._serve, made)

    async def _serve(self, stream: _Stream) -> None:
        try:
            await stream.run()
        finally:
            del self._streams[stream.number]
        await self._say(
            messages.NotificationStreamClosed(
                stream.number,
                printable(stream.reason, 900),
                stream.from_guest,
                stream.to_guest,
            )
        )


class _Stream:
    """One connection."""

    def __init__(self, number: int, sock: socket.socket, say: Say) -> None:
        sock.settimeout(0)
        self.number = number
        self.reason = ""
        self.from_guest = 0
        self.to_guest = 0
        self._sock = trio.socket.from_stdlib_socket(sock)
        frames = FrameReader(limits.NOTIFICATION_FRAME_BYTES)
        patience = limits.SILENT_SECONDS
        self._stream = FramedStream(self._sock, frames, patience, self._count)
        self._say = say
        self._scope = trio.CancelScope()
        self._put, self._answers = trio.open_memory_channel[ToDaemon](limits.QUEUE)
        self._pace = TokenBucket(limits.MESSAGES_PER_SECOND, limits.MESSAGES_BURST)

    def answer(self, message: ToDaemon) -> None:
        """Queue an answer; a daemon that does not read them is given up."""
        try:
            self._put.send_nowait(message)
        except trio.WouldBlock:
            self._give_up("the notification daemon does not read")

    def _give_up(self, reason: str) -> None:
        self.reason = self.reason or reason
        self._scope.cancel()

    async def run(self) -> None:
        """Serve it until either side ends it; the socket is closed then."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._guarded, self._read)
                    nursery.start_soon(self._guarded, self._write)
        finally:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            self._sock.close()

    async def _guarded(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except PeerError as error:
            self._give_up(str(error))
        except OSError as error:
            self._give_up(f"the connection broke: {error.strerror}")

    def _count(self, received: int, sent: int) -> None:
        self.from_guest += received
        self.to_guest += sent

    async def _read(self) -> None:
        while True:
            ask = decode_from_daemon(await self._stream.receive())
            # guard: a flood of notifications waits in its sender
            await trio.sleep(self._pace.take(trio.current_time()))
            await self._say(messages.NotificationAsked(self.number, ask))

    async def _write(self) -> None:
        async for message in self._answers:
            await self._stream.send(daemon_frame(message))
