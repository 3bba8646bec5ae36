"""A person at a real broker: a keyboard, and windows that get it."""

from __future__ import annotations

from typing import Self

import trio

from broker.core.limits import clipboard as limits
from broker.ipc.control.api import Nothing
from broker.ipc.control.methods import CLIPBOARD
from tests.kit.eventually import eventually
from tests.kit.wayland.input import Keyboard

C, V = 46, 47
_SHIFT, _CONTROL, _SUPER, _ANY = 42, 29, 125, 42
_BITS = {_SHIFT: 1, _CONTROL: 4, _SUPER: 64}


class Person:
    """``with Person(world) as person``: presses chords in sandboxes' windows."""

    def __init__(self, w) -> None:
        self.world = w
        self.keyboard = Keyboard(w.comp.display)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.keyboard.client.close()

    async def awake(self) -> None:
        """Press a key that types nothing: sway then has a current keyboard."""
        await trio.to_thread.run_sync(self._press, _SHIFT, ())

    def _press(self, code: int, held: tuple[int, ...]) -> None:
        bits = 0
        for key in held:
            bits |= _BITS[key]
            self.keyboard.change(key, 1)
            self.keyboard.modifiers(bits)
        self.keyboard.press(code)
        for key in reversed(held):
            bits &= ~_BITS[key]
            self.keyboard.change(key, 0)
            self.keyboard.modifiers(bits)

    async def focus(self, name: str, title: str = "") -> None:
        """Bring a sandbox's window, titled as it is named if not else, to the keyboard."""

        async def there():
            await self.world.comp.command(f'[title="{title or name}$"] focus')
            async with self.world.client() as client:
                return (await client.call(CLIPBOARD, Nothing())).focused == name

        await eventually(there, deadline=60)
        # No event ends it: a chord counts when the focus has lasted.
        await trio.sleep(limits.CLIPBOARD_FOCUS_SECONDS)

    async def press(self, code: int, *held: int) -> None:
        """Press a key with others held."""
        await trio.to_thread.run_sync(self._press, code, held)

    async def copy(self, name: str, title: str = "") -> None:
        """Press the copy chord in its window."""
        await self.focus(name, title)
        await self.press(C, _SUPER, _SHIFT)

    async def paste(self, name: str, title: str = "") -> None:
        """Press the paste chord in its window."""
        await self.focus(name, title)
        await self.press(V, _SUPER, _SHIFT)
