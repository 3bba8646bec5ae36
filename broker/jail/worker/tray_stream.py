"""In the worker: one connection of the sandbox's icons in the panel.

A message is decoded and passed on, and the next one read once the broker asks for it:
a flood makes its own sender wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from broker.core.errors import PeerError
from broker.core.escape import printable
from broker.core.framing import FrameReader
from broker.core.limits import tray as limits
from broker.ipc import transfer as messages
from broker.ipc.desktop.tray_guest import IconClicked, click_frame, decode_icon
from broker.jail.worker.framed_stream import FramedStream


class TrayStream:
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
        frames = FrameReader(limits.ICON_FRAME_BYTES)
        self._stream = FramedStream(sock, frames, limits.ICON_SILENT_SECONDS, moved)
        self._more = trio.Event()
        self._put, self._clicks = trio.open_memory_channel[IconClicked](
            limits.ICON_CLICKS_BURST
        )
        self._reason = ""

    async def run(self) -> str:
        """Serve it until the broker finishes it, or the daemon goes; returns why."""
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
        """Follow orders until the last one."""
        while True:
            match await self._order():
                case messages.TransferFinish(reason=why):
                    self._reason = printable(why, 900)
                    return
                case messages.TrayMore():
                    self._more.set()
                case messages.TrayClicked(click=click):
                    with suppress(trio.WouldBlock):  # its daemon does not read them
                        self._put.send_nowait(click)
                case _:
                    pass  # of an exchange of files; the broker sends none

    async def _read(self) -> None:
        while True:
            untrusted_body = await self._stream.receive()
            self._more = trio.Event()
            ask = decode_icon(untrusted_body)
            await self._say(messages.TrayAsked(self._number, ask))
            await self._more.wait()

    async def _write(self) -> None:
        async for click in self._clicks:
            await self._stream.send(click_frame(click))
