"""Honest clients beside a hostile one, and the broker's part of the clipboard.

The judge decides by the events that they receive; a broken promise raises SeenError.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import time
from collections.abc import Callable
from typing import Any

from broker.jail.wayland.protocol import signatures
from tests.kit.wayland.client import Window

LEFT_WAIT = 8.0
"""Seconds in which an honest client must have heard of a click or a key."""


class SeenError(AssertionError):
    """An observer saw what must never be seen."""


def await_devices(client: Window, seat: int) -> None:
    """Wait until a seat has a pointer and a keyboard.

    weston gives a keyboard that never says anything to a client which asks for one
    before the seat has it.
    """
    client.wait(lambda e: e[0] == seat and e[2] == "capabilities" and e[3][0] & 3 == 3)


def touch_of(client: Window, seat: int) -> int:
    """Return its object that hears of fingers, or 0 where the seat has no touch."""
    told = [e[3][0] for e in client.events if e[0] == seat and e[2] == "capabilities"]
    return client.make(seat, "get_touch", "wl_touch") if told[-1] & 4 else 0


class Observer(Window):
    """An honest client with a window of one colour, which owns a selection."""

    def begin(self, name: str, color: int) -> Observer:
        """Show the window and listen."""
        self.start()
        self.name, self.color = name, color
        self.seat = self.bind("wl_seat", min(5, self.globals["wl_seat"][1]))
        await_devices(self, self.seat)
        self.pointer = self.make(self.seat, "get_pointer", "wl_pointer")
        self.keyboard = self.make(self.seat, "get_keyboard", "wl_keyboard")
        self.touch = touch_of(self, self.seat)
        self.manager = self.bind("wl_data_device_manager")
        self.device = self.make(
            self.manager, "get_data_device", "wl_data_device", None, self.seat
        )
        self.source = self.owned_since = 0
        surface = self.surface()
        xdg, top = self.toplevel(surface)
        self.top = top
        self.painted = surface
        self.send(top, "set_title", name.encode())
        self.send(surface, "commit")
        self.configured(xdg)
        self.paint(surface, 320, 220, 0xFF000000 | color)
        self.send(surface, "commit")
        self.roundtrip()
        self.keymap = self._keymap()
        return self

    def _note(
        self,
        oid: int,
        interface: str,
        message: signatures.MessageSignature,
        args: list[Any],
    ) -> None:
        """Answer pings, as each honest program does.

        weston pings with each pointer that comes, and gives the clicks on a window
        whose program has not answered for ten seconds to itself.
        """
        super()._note(oid, interface, message, args)
        if interface == "xdg_wm_base" and message.name == "ping":
            self.send(oid, "pong", args[0])

    def _keymap(self) -> str:
        """Digest of the newest keymap that it was sent, as it is now."""
        sizes = [e[3][-1] for e in self.events if e[2] == "keymap"]
        # Pipes of selections come in the same list; a keymap is a regular file.
        files = [fd for fd in self.fds if stat.S_ISREG(os.fstat(fd).st_mode)]
        if not sizes or not files:
            return "none"
        size = os.fstat(files[-1]).st_size
        if size < sizes[-1]:
            return f"{size} bytes of {sizes[-1]}"
        with mmap.mmap(files[-1], sizes[-1], mmap.MAP_PRIVATE, mmap.PROT_READ) as m:
            return hashlib.sha256(m[:]).hexdigest()[:16]

    def keymap_kept(self) -> None:
        """Check that no client wrote into its keymap, nor into the one sent next.

        The person's keyboard stays the same, so each keymap is the first one.
        """
        now = self._keymap()
        if now != self.keymap:
            raise SeenError(f"the keymap of {self.name} was {self.keymap}, is {now}")
        newest = self.make(self.seat, "get_keyboard", "wl_keyboard")
        self.roundtrip()
        self.send(newest, "release")
        if (now := self._keymap()) != self.keymap:
            raise SeenError(f"a new keymap of {self.name} is {now}, not {self.keymap}")

    def selection_kept(self) -> None:
        """Check that the selection which it took is still the one of its clipboard.

        No chord crosses a sandbox's border here, so no other client may take it.
        """
        if self.lost_selection():
            raise SeenError(f"the selection of {self.name} was cancelled")

    def lost_selection(self) -> bool:
        """Whether the selection that it took last is no more the clipboard's."""
        return bool(self.heard("cancelled", self.owned_since, self.source))

    def heard(self, name: str, since: int = 0, oid: int | None = None) -> list[Any]:
        """Arguments of all events of that name after a place."""
        return [
            e[3] for e in self.events[since:] if e[2] == name and oid in {None, e[0]}
        ]

    def focused(self) -> bool:
        """Whether the compositor says that it has the keyboard."""
        told = [
            e[2] for e in self.events
            if e[0] == self.keyboard and e[2] in {"enter", "leave"}
        ]  # fmt: skip
        return told[-1:] == ["enter"]

    def entered(self) -> bool:
        """Whether the pointer is in its window, as far as it was told."""
        told = [e[2] for e in self.events if e[0] == self.pointer]
        moves = [name for name in told if name in {"enter", "leave"}]
        return moves[-1:] == ["enter"]

    def leaves(self, since: int) -> int:
        """How often it lost the keyboard after a place."""
        return len(self.heard("leave", since, self.keyboard))

    def eventually(self, true: Callable[[], bool]) -> bool:
        """Whether something becomes true as it listens."""
        end = time.monotonic() + LEFT_WAIT
        while True:
            self.roundtrip()
            if true():
                return True
            if time.monotonic() > end:
                return False
            time.sleep(0.02)

    def own_selection(self, serial: int) -> None:
        """Take the clipboard, as a person's copy does."""
        if self.source:
            self.send(self.source, "destroy")
        # Ids are used again: events of the former one are not of the next.
        self.owned_since = len(self.events)
        self.source = self.make(self.manager, "create_data_source", "wl_data_source")
        self.send(self.source, "offer", b"text/plain")
        self.send(self.device, "set_selection", self.source, serial)
        self.roundtrip()


class Claims:
    """The broker's part: which sandbox claims the keyboard, and who pressed."""

    def __init__(self, judge: Callable[[], Any]) -> None:
        self.judge = judge
        self.claimed = False
        self.chords = 0

    def focus(self, *, taken: bool) -> None:
        """One of the sandbox's windows has the keyboard, or none."""
        self.claimed = taken

    def pressed(self, *_: Any, **__: Any) -> None:
        """A chord; none is pressed in this sandbox's windows."""
        self.chords += 1

    def trouble(self, _reason: str) -> None:
        """Why there are no chords."""

    @property
    def drags(self) -> Claims:
        """The receiver of drag events: itself, because nothing crosses by a drag."""
        return self

    def started(self, _source: Any) -> None:
        """One of its drags began."""

    performed = ended = over = dropped = started

    def outward(self, _source: Any) -> tuple[bytes, ...]:
        """Nothing of it is for others."""
        return ()

    def wanted(self, *_: Any) -> bool:
        """Refuse every request."""
        return False
