"""In the worker: pictures of one window of the sandbox, for the sandbox's own programs.

Nothing of the user's is in them: they are made of what the sandbox's clients have drawn
themselves, before any frame, and no compositor is asked.  The stream is the width and the
height, then pictures of that size, BGRx, whenever they change.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import trio
import trio.lowlevel

from broker.core.errors import PeerError
from broker.ipc import transfer as messages
from broker.jail.wayland.buffer_model import Buffer
from broker.jail.wayland.model import Surface, Toplevel, XdgSurface
from broker.jail.wayland.sandbox import Sandbox
from broker.jail.wayland.state import ClientState

BETWEEN_SECONDS = 0.1
LARGEST = (2560, 1600)
"""Pixels; of a larger window this much is shown."""
SURFACES = 32
"""Of a window that are drawn."""
PICTURE_BYTES = 2 * 4 * LARGEST[0] * LARGEST[1]
"""That are read for one; a surface beyond them is not drawn."""
READ_BYTES = 1 << 12
"""What reading a row costs at least."""
_DEPTH = 8
_ARGB8888, _XRGB8888 = 0, 1
_CLIENT_PARTS = (_ARGB8888, _XRGB8888)


class OwnWindow:
    """The window that a stream shows: the newest window without the focus."""

    def __init__(self, sandbox: Sandbox) -> None:
        """Choose the sandbox's focused or newest window.

        Raises PeerError if there is none.
        """
        found = [
            (xdg.surface not in core.focused.values(), xdg.number, core, xdg)
            for core in sandbox.filters
            for xdg in core.windows
            if _is_shown(core, xdg)
        ]
        if not found:
            raise PeerError("the sandbox has no visible window")
        _, _, self._core, self._xdg = max(found, key=lambda one: one[:2])
        buffer = self._surface.attached
        x, y, width, height = self._xdg.geometry or (0, 0, 0, 0)
        scale = self._surface.shape[0]
        self._at = (-x * scale, -y * scale)
        size = width * scale, height * scale
        if not all(size) and buffer is not None:
            size = buffer.width, buffer.height
        self.width, self.height = (
            max(1, min(side, most)) for side, most in zip(size, LARGEST, strict=True)
        )
        self._left = 0

    @property
    def _surface(self) -> Surface:
        assert self._xdg.surface is not None
        return self._xdg.surface

    @property
    def there(self) -> bool:
        """Return whether the window is still shown."""
        # guard: pictures of a window end with it
        return self._xdg in self._core.windows and _is_shown(self._core, self._xdg)

    async def picture(self) -> bytes:
        """Draw the window's current surfaces into one picture; return its pixels."""
        canvas, left = bytearray(self.width * self.height * 4), PICTURE_BYTES
        with memoryview(canvas) as view:
            for number in range(SURFACES):
                # Of now: a window that closed while others were served is not read.
                plan = self._plan() if self.there else []
                if number >= len(plan):
                    break
                left = self._copy(view, *plan[number], left)
                # guard: others are served while a picture is drawn
                await trio.lowlevel.checkpoint()
        return bytes(canvas)

    def _plan(self) -> list[tuple[Buffer, int, int]]:
        """Return the drawn surfaces, the lowest first, and where."""
        found: list[tuple[Buffer, int, int]] = []
        self._left = SURFACES
        self._add(found, self._surface, *self._at, _DEPTH)
        return found

    def _add(
        self,
        found: list[tuple[Buffer, int, int]],
        surface: Surface,
        x: int,
        y: int,
        depth: int,
    ) -> None:
        """Add a surface and its subsurfaces below and above to the list."""
        # guard: a picture of a window has bounded work
        if depth == 0 or self._left == 0:
            return
        self._left -= 1
        scale = surface.shape[0]
        for below in (True, False):
            for sub in surface.children:
                if sub.below == below and sub.surface is not None:
                    place = (x + sub.x * scale, y + sub.y * scale)
                    self._add(found, sub.surface, *place, depth - 1)
            if below and surface.attached is not None:
                found.append((surface.attached, x, y))

    def _copy(
        self, canvas: memoryview, buffer: Buffer, x: int, y: int, budget: int
    ) -> int:
        """Copy the rows of a buffer that are inside; returns the rest to read."""
        pool, form = buffer.pool, buffer.form
        if pool is None or pool.file is None or form not in _CLIENT_PARTS:
            return budget  # memory of a GPU, or a video's format
        left, right = max(0, -x), min(buffer.width, self.width - x)
        top, bottom = max(0, -y), min(buffer.height, self.height - y)
        if left >= right or top >= bottom:
            return budget
        stride, count = buffer.stride, 4 * (right - left)
        cost = (bottom - top) * max(count, READ_BYTES)
        # guard: a picture of a window reads so much
        if cost > budget:
            return budget
        for row in range(top, bottom):
            to = 4 * ((y + row) * self.width + x + left)
            start = buffer.offset + row * stride + 4 * left
            try:
                canvas[to : to + count] = pool.file.read(start, count)
            except ValueError:
                break  # the client has taken it away
        return budget - cost


def _is_shown(core: ClientState, xdg: XdgSurface) -> bool:
    shown = core.fault is None and xdg.mapped and xdg.surface is not None
    return shown and isinstance(xdg.role, Toplevel)


async def _show(window: OwnWindow, send: Callable[[bytes], Awaitable[None]]) -> str:
    """Send a window's pictures, each that differs, until it closes."""
    await send(struct.pack("<II", window.width, window.height))
    before = b""
    while window.there:
        picture = await window.picture()
        if picture != before:
            await send(picture)
        before = picture
        await trio.sleep(BETWEEN_SECONDS)
    return "the window was closed"


async def serve_window(
    window: OwnWindow,
    sock: trio.socket.SocketType,
    order: Callable[[], Awaitable[messages.ToWorker]],
    moved: Callable[[int, int], None],
) -> str:
    """Send pictures until the window, the program or the broker ends it; returns why."""
    reason = ""

    async def guarded(step: Callable[[], Awaitable[str]]) -> None:
        nonlocal reason
        found = "done"
        # guard: a program that leaves pictures unread ends its share alone
        with suppress(OSError):
            found = await step()
        reason = reason or found
        nursery.cancel_scope.cancel()

    async def until_finished() -> str:
        while not isinstance(last := await order(), messages.TransferFinish):
            pass
        return last.reason or "done"

    async def until_hung_up() -> str:
        await sock.recv(1)
        return "done"

    async def send(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[await sock.send(view) :]
        moved(0, len(data))

    async with trio.open_nursery() as nursery:
        for step in (until_finished, until_hung_up, partial(_show, window, send)):
            nursery.start_soon(guarded, step)
    return reason
