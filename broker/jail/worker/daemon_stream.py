"""In the worker: one connection of the sandbox's notification daemon, or of its icons.

A message is decoded and passed on, and the next one read once the broker asks for it:
a flood makes its sender wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from broker.core.errors import PeerError
from broker.core.escape import printable
from broker.core.framing import FrameReader
from broker.core.limits import notifications as limits
from broker.ipc import transfer as messages
from broker.ipc.guest.daemons import ToDaemon, daemon_frame, decode_from_daemon
from broker.jail.worker.framed_stream import FramedStream


class DaemonStream:
    """See the head of this module."""

    def __init__(
        self,
        number: int,
        sock: trio.socket.SocketType,
        say: Callable[[messages.FromWorker], Awaitable[None]],
        order: Callable[[], Awaitable[messages.ToWorker]],
        moved: Callable[[int, int], None],
    ) -> None:
        """``moved`` counts bytes in and out."""
        self._number = number
        self._say = say
        self._order = order
        frames = FrameReader(limits.DAEMON_FRAME_BYTES)
        self._stream = FramedStream(sock, frames, limits.SILENT_SECONDS, moved)
        self._more = trio.Event()
        self._put, self._answers = trio.open_memory_channel[ToDaemon](limits.QUEUE)
        self._reason = ""

    async def run(self) -> str:
        """Serve the connection until the broker or the daemon ends it; return the reason."""
        async with trio.open_nursery() as nursery:

            async def guarded(step: Callable[[], Awaitable[None]]) -> None:
                try:
                    await step()
                except (PeerError, OSError) as error:
                    self._reason = self._reason or printable(str(error), 900)
                nursery.cancel_scope.cancel()

            for step in (self._obey, self._read, self._write):
                nursery.start_soon(guarded, step)
        return self._reason or "done"

    async def _obey(self) -> None:
        """Follow orders until the last one.  Raises PeerError."""
        while True:
            match await self._order():
                case messages.TransferFinish(reason=why):
                    self._reason = printable(why, 900)
                    return
                case messages.DaemonMore():
                    self._more.set()
                case messages.DaemonAnswer(answer=answer):
                    try:
                        self._put.send_nowait(answer)
                    except trio.WouldBlock:
                        raise PeerError("it does not read") from None
                case _:
                    pass  # of an exchange of files; the broker sends none

    async def _read(self) -> None:
        while True:
            untrusted_body = await self._stream.receive()
            self._more = trio.Event()
            ask = decode_from_daemon(untrusted_body)
            await self._say(messages.DaemonAsked(self._number, ask))
            await self._more.wait()

    async def _write(self) -> None:
        async for answer in self._answers:
            await self._stream.send(daemon_frame(answer))
