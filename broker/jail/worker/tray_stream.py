"""In the worker: one connection of the sandbox's icons in the panel.

A message is decoded and passed on, and the next one read once the broker asks for it:
a flood makes its own sender wait.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from broker.core.errors import PeerError
from broker.core.escape import printable
from broker.core.framing import FrameReader
from broker.core.limits import tray as limits
from broker.ipc import transfer as messages
from broker.ipc.desktop.tray_guest import IconClicked, click_frame, decode_icon

_READ_BYTES = 1 << 14


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
        self._sock = sock
        self._say = say
        self._order = order
        self._moved = moved
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
        frames = FrameReader(limits.ICON_FRAME_BYTES)
        while True:
            # guard: an icon is sent whole in time
            within = limits.ICON_SILENT_SECONDS if frames.in_frame else math.inf
            with trio.move_on_after(within) as patience:
                untrusted_data = await self._sock.recv(_READ_BYTES)
            if patience.cancelled_caught:
                raise PeerError("a message about icons does not end")
            if not untrusted_data:
                raise PeerError("it has closed the connection")
            self._moved(len(untrusted_data), 0)
            for untrusted_body in frames.feed(untrusted_data):
                self._more = trio.Event()
                ask = decode_icon(untrusted_body)
                await self._say(messages.TrayAsked(self._number, ask))
                await self._more.wait()

    async def _write(self) -> None:
        async for click in self._clicks:
            left = memoryview(click_frame(click))
            with trio.move_on_after(limits.ICON_SILENT_SECONDS) as patience:
                while left:
                    sent = await self._sock.send(left)
                    self._moved(0, sent)
                    left = left[sent:]
            if patience.cancelled_caught:
                raise PeerError("it does not read")
