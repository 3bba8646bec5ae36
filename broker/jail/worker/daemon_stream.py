"""In the worker: one connection of the sandbox's notification daemon, or of its icons.

A message is decoded and passed on, and the next one read once the broker asks for it:
a flood makes its sender wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from typing_extensions import override

from broker.core.errors import PeerError
from broker.core.framing import FrameReader
from broker.core.limits import notifications as limits
from broker.ipc import transfer as messages
from broker.ipc.guest.daemons import ToDaemon, daemon_frame, decode_from_daemon
from broker.jail.worker.framed_stream import FramedStream, ServedStream


class DaemonStream(ServedStream):
    """Decodes one daemon's messages, one for each request of the broker."""

    def __init__(
        self,
        number: int,
        sock: trio.socket.SocketType,
        say: Callable[[messages.FromWorker], Awaitable[None]],
        order: Callable[[], Awaitable[messages.ToWorker]],
        moved: Callable[[int, int], None],
    ) -> None:
        """Serve one connection of a daemon; ``moved`` counts bytes in and out."""
        frames = FrameReader(limits.DAEMON_FRAME_BYTES)
        stream = FramedStream(sock, frames, limits.SILENT_SECONDS, moved)
        super().__init__(number, stream, say, order)
        self._more = trio.Event()
        self._put, self._answers = trio.open_memory_channel[ToDaemon](limits.QUEUE)

    @override
    def steps(self) -> tuple[Callable[[], Awaitable[None]], ...]:
        """See ``ServedStream``."""
        return self._read, self._write

    @override
    async def take(self, order: messages.StreamTell | messages.DaemonMore) -> None:
        """Send the daemon an answer, or let it send more."""
        await trio.lowlevel.checkpoint()
        if isinstance(order, messages.DaemonMore):
            self._more.set()
        elif isinstance(order.message, ToDaemon):
            try:
                self._put.send_nowait(order.message)
            except trio.WouldBlock:
                raise PeerError("the daemon does not read its messages") from None

    async def _read(self) -> None:
        while True:
            untrusted_body = await self._stream.receive()
            self._more = trio.Event()
            await self.pass_on(decode_from_daemon(untrusted_body))
            await self._more.wait()

    async def _write(self) -> None:
        async for answer in self._answers:
            await self._stream.send(daemon_frame(answer))
