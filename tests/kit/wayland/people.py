"""Two sandboxes' clients, an ordinary one, and a person between them.

A hostile client (through the filter) and an honest one (a window of the desktop's
own) on one compositor.  What the person does is seen by the honest one's events
and by the screen; what the hostile one hears is its events.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from tests.kit.wayland.client import Window
from tests.kit.wayland.compositor import desktop
from tests.kit.wayland.input import Keyboard, Pointer
from tests.kit.wayland.pixels import mask
from tests.kit.wayland.stand import CONFIG, SIZE, Stand, filtered, nested

HOSTILE, HONEST = 0x00FF00, 0x0000FF
"""The colours of the two sandboxes' windows."""


class Party(Window):
    """A client with a window, a pointer and a keyboard."""

    def begin(self, color: int, w: int = 300, h: int = 200) -> Party:
        """Show a window of one colour and listen."""
        self.start()
        self.seat = self.bind("wl_seat", min(5, self.globals["wl_seat"][1]))
        self._await_devices()
        self.pointer = self.make(self.seat, "get_pointer", "wl_pointer")
        self.keyboard = self.make(self.seat, "get_keyboard", "wl_keyboard")
        self.color, self.size = color, (w, h)
        self.win = self.surface()
        self.xdg, self.top = self.toplevel(self.win)
        self.send(self.top, "set_title", b"honest" if color == HONEST else b"hostile")
        self.send(self.win, "commit")
        self.configured(self.xdg)
        self.paint(self.win, w, h, 0xFF000000 | color)
        self.send(self.win, "commit")
        self.roundtrip()
        return self

    def _await_devices(self) -> None:
        """Wait for the seat's pointer and keyboard, which a nested compositor has late.

        A compositor owes no keymap to a keyboard object made before it has one
        (wl_seat.capabilities in wayland.xml).
        """
        end = time.monotonic() + 30
        while time.monotonic() < end:
            self.roundtrip()
            known = self.heard("capabilities")
            if known and known[-1][0] & 3 == 3:
                return
            time.sleep(0.02)
        raise AssertionError("the seat has no pointer and keyboard")

    def heard(self, name: str, since: int = 0) -> list[list[Any]]:
        """Arguments of all events of this name."""
        return [e[3] for e in self.events[since:] if e[2] == name]

    def keys(self, since: int = 0) -> list[int]:
        """Codes of the keys that it heard go down."""
        return [a[2] for a in self.heard("key", since) if a[3] == 1]

    def popup(self, w: int = 60, h: int = 60) -> tuple[int, int, int]:
        """A popup that is not mapped yet: surface, xdg_surface, xdg_popup."""
        surface = self.surface()
        xdg = self.make(self.shell, "get_xdg_surface", "xdg_surface", None, surface)
        place = self.make(self.shell, "create_positioner", "xdg_positioner")
        self.send(place, "set_size", w, h)
        self.send(place, "set_anchor_rect", 0, 0, 10, 10)
        made = self.make(xdg, "get_popup", "xdg_popup", None, self.xdg, place)
        return surface, xdg, made

    def map(self, surface: int, xdg: int, w: int = 60, h: int = 60) -> None:
        """Show it."""
        self.send(surface, "commit")
        self.configured(xdg)
        self.paint(surface, w, h, 0xFFFF00FF)
        self.send(surface, "commit")
        self.roundtrip()

    def focused(self) -> bool:
        """Whether the last keyboard event was ``enter``."""
        told = [e[2] for e in self.events if e[0] == self.keyboard]
        told = [name for name in told if name in {"enter", "leave"}]
        return bool(told) and told[-1] == "enter"


class People:
    """``hostile`` and ``honest``, the person's ``mouse`` and ``keys``; in a thread."""

    def __init__(self, it: Stand, behind: Path) -> None:
        self.it, self.behind = it, behind
        self.mouse = Pointer(it.comp.display, SIZE)
        self.keys = Keyboard(it.comp.display)
        for at in ((640, 400), (644, 404), (5, 5)):
            self.mouse.move(*at)
        self.honest = Party(behind, deadline=10)
        self.hostile = Party(it.path, deadline=10)

    def close(self) -> None:
        for client in (self.honest, self.hostile, self.mouse.client, self.keys.client):
            client.close()

    def place(
        self, party: Party, at: tuple[float, float] = (0.5, 0.5)
    ) -> tuple[int, int]:
        """Where a part of a window lies on the screen."""
        seen = mask(self.it.settled(), party.color)
        rows, columns = seen.any(axis=1).nonzero()[0], seen.any(axis=0).nonzero()[0]
        assert len(rows), "the window is not on the screen"
        x = columns[0] + (columns[-1] - columns[0]) * at[0]
        y = rows[0] + (rows[-1] - rows[0]) * at[1]
        return int(x), int(y)

    def drag_away(self, party: Party) -> None:
        """Drag a filtered window by its frame into the upper left corner.

        A person who was too quick for the compositor does it again: the button may be
        up before the frame's request to move the window has arrived.
        """
        end = time.monotonic() + 30
        before = self.place(party, (0.5, 0.0))
        while self.place(party, (0.5, 0.0)) == before:
            assert time.monotonic() < end, "the window stays where it is"
            self._drag(party, *before)

    def _drag(self, party: Party, x: int, y: int) -> None:
        self.mouse.move(x - 2, y - 2)
        self.mouse.move(x, y - 2)
        self.mouse.button(True)
        for step in range(1, 11):
            self.mouse.move(x - (x - 200) * step // 10, y - (y - 100) * step // 10)
            party.roundtrip()
        self.mouse.button(False)
        self.mouse.move(900, 700)

    def move_in(self, party: Party, at: tuple[float, float] = (0.5, 0.5)) -> None:
        """Bring the pointer over a window; KWin takes the first place for a jump."""
        x, y = self.place(party, at)
        self.mouse.move(x - 2, y)
        self.mouse.move(x, y)

    def click_in(self, party: Party, at: tuple[float, float] = (0.5, 0.5)) -> None:
        """Click into a window, as a person gives it the keyboard."""
        self.move_in(party, at)
        self.mouse.button(True)
        self.mouse.button(False)

    def eventually(
        self, true: Callable[[], bool], *parties: Party, seconds: float = 30
    ) -> bool:
        """Whether it becomes true within so many seconds."""
        end = time.monotonic() + seconds
        while not true() and time.monotonic() < end:
            for party in parties or (self.honest, self.hostile):
                party.roundtrip()
            time.sleep(0.02)
        return true()

    def focus(self, party: Party) -> None:
        """Click into a window until it has the keyboard.

        A person clicks again where they see it then: a nested compositor may show it
        elsewhere a moment after it stood still, and the click does not reach it.
        """
        since = len(party.events)

        def clicked() -> bool:
            return party.focused() and bool(party.heard("button", since))

        end = time.monotonic() + 30
        while True:
            self.click_in(party)
            if self.eventually(clicked, party, seconds=5):
                return
            assert time.monotonic() < end, "it gets no keyboard"

    def type(self, text: str) -> None:
        """Type, and let all clients hear of it."""
        self.keys.type(text)
        time.sleep(0.2)
        for party in (self.honest, self.hostile):
            party.roundtrip()


@asynccontextmanager
async def people(kind: str = "sway", rules=None, **more):
    """A compositor with a filter; call ``run(function)`` with a ``People``."""
    config = CONFIG + (
        'for_window [title="^.work"] move position 60 60\n'
        'for_window [title="^honest"] move position 700 300\n'
    )
    async with desktop(size=SIZE, config_extra=more.pop("config", config)) as comp:
        if kind == "sway":
            async with filtered(comp, rules) as it:
                yield _runner(it, comp.display)
        else:
            async with (
                nested(comp, kind) as inner,
                filtered(comp, rules, behind=inner.display) as it,
            ):
                yield _runner(it, inner.display)


def _runner(it: Stand, behind: Path):
    async def run(function: Callable[[People], Any]) -> Any:
        def inside() -> Any:
            made = People(it, behind)
            try:
                return function(made)
            finally:
                made.close()

        return await trio.to_thread.run_sync(inside)

    run.it = it  # type: ignore[attr-defined]
    return run
