"""A scripted client that copies and pastes, honestly or not, on a ``clip_stand``."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import trio

from broker.viewer.clipboard.exchange import messages as w
from tests.kit.clipboard.stand import DEADLINE, SCREEN, Desk
from tests.kit.wayland.client import Window
from tests.kit.wayland.compositor import wait_window
from tests.kit.wayland.input import Pointer
from tests.kit.wayland.mutter_person import GnomePointer

TEXT = b"text/plain;charset=utf-8"


class Guest(Window):
    """A client with a focused window and all that copies and pastes."""

    def begin(
        self,
        it: Desk,
        name: str,
        title: str = "",
        size: tuple[int, int] = (200, 150),
    ) -> Guest:
        self.it, self.name = it, name
        self.deadline = DEADLINE
        self.seat = self.bind("wl_seat", 5)
        self.keyboard = self.make(self.seat, "get_keyboard", "wl_keyboard")
        self.manager = self.bind("wl_data_device_manager")
        self.device = self.make(
            self.manager, "get_data_device", "wl_data_device", None, self.seat
        )
        self.window, _, top = self.show(*size, 0xFF336699)
        self.send(top, "set_title", title.encode() or name.encode())
        self.entered()
        if name:
            # The window that had the keyboard before is another worker's to tell.
            trio.from_thread.run(it.until, lambda: it.crossing.focused == name)
        return self

    def entered(self) -> int:
        """Wait for the keyboard; the serial that came with it."""
        return self.wait(lambda e: e[1:3] == ("wl_keyboard", "enter"))[3][0]

    def select(self, *mimes: bytes, serial: int | None = None) -> int:
        source = self.make(self.manager, "create_data_source", "wl_data_source")
        for mime in mimes:
            self.send(source, "offer", mime)
        used = self.entered() if serial is None else serial
        self.send(self.device, "set_selection", source, used)
        self.roundtrip()
        return source

    def asked(self, source: int) -> int:
        """Wait until its data is wanted; where to write it."""
        self.wait(lambda e: e[0] == source and e[2] == "send")
        return self.fds.pop()

    def cancelled(self, source: int) -> bool:
        self.roundtrip()
        return any(e[0] == source and e[2] == "cancelled" for e in self.events)

    # -- the person, from the client's thread -----------------------------------------

    def copy(self) -> w.RecordCrossing:
        return trio.from_thread.run(self.it.copy)

    def press_copy(self) -> None:
        trio.from_thread.run(self.it.press_copy)

    def outcome(self, before: int) -> w.RecordCrossing:
        """The first record after so many."""
        return trio.from_thread.run(self.it.record_after, before)


async def guest(
    it: Desk,
    name: str,
    function,
    *,
    direct: bool = False,
    title: str = "",
    size: tuple[int, int] = (200, 150),
):
    """Run a client of a sandbox in a thread, with the keyboard's focus."""
    path = it.comp.display if direct else it.rooms[name].path

    def inside():
        with Guest(path).start() as client:
            return function(client.begin(it, name, title, size))

    return await trio.to_thread.run_sync(inside)


def gives(c: Guest, content: bytes, mime: bytes = TEXT) -> w.RecordCrossing:
    """Select, have the person copy it, and write all of it."""
    source = c.select(mime)
    before = len(c.it.records)
    c.press_copy()
    with os.fdopen(c.asked(source), "wb") as out:
        out.write(content)
    return c.outcome(before)


def serves(c: Guest, source: int, content: bytes, over: threading.Event) -> None:
    """Write it to every client that asks: weston itself does, before all others."""
    done = 0
    while not over.is_set():
        with suppress(TimeoutError):
            c.sock.settimeout(0.05)
            c.read()
        # Events that came with a descriptor, in the order of the descriptors.
        came = [e for e in c.events if e[2] in {"keymap", "send"}]
        for event, fd in list(zip(came, c.fds, strict=True))[done:]:
            if event[0] == source:
                with os.fdopen(os.dup(fd), "wb") as out:
                    out.write(content)
                # Ours would hold the pipe open; its place stays taken.
                nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                os.dup2(nothing, fd)
                os.close(nothing)
        done = len(came)


FROM, TO = (150, 350), (750, 350)
"""Where ``drags`` presses and lets go."""


@dataclass
class Drag:
    """A drag under way: its source, and the person's pointer."""

    source: int
    mouse: Pointer | GnomePointer


@contextmanager
def dragging(
    c: Guest, target: str, *types: bytes, paint: tuple[int, int] | None = None
) -> Iterator[Drag]:
    """Press in this window and drag over the one that is titled ``target``.

    ``paint``: side and colour of a picture that goes with it.
    """
    it = c.it
    for title, x in (("from", 100), (target, 700)):
        trio.from_thread.run(partial(wait_window, it.comp, title=title))
        order = f'[title="{title}"] move position {x} 300'
        trio.from_thread.run(it.comp.command, order)
    with Pointer(it.comp.display, SCREEN) as mouse:
        c.make(c.seat, "get_pointer", "wl_pointer")
        mouse.move(*FROM)
        c.wait(lambda e: e[1:3] == ("wl_pointer", "enter"))
        mouse.button(True)
        serial = c.wait(lambda e: e[1:3] == ("wl_pointer", "button"))[3][0]
        source = c.make(c.manager, "create_data_source", "wl_data_source")
        for mime in types or (TEXT,):
            c.send(source, "offer", mime)
        c.send(source, "set_actions", 1)
        icon = c.surface() if paint else 0
        c.send(c.device, "start_drag", source, c.window, icon, serial)
        if paint:
            side, colour = paint
            c.paint(icon, side, side, colour)
            c.send(icon, "commit")
        c.roundtrip()
        for step in range(FROM[0], TO[0] + 1, 50):
            mouse.move(step, FROM[1])
        c.roundtrip()
        yield Drag(source, mouse)


def let_go(c: Guest, drag: Drag) -> str:
    """Release the button; what the compositor says of the drag."""
    drag.mouse.button(False)
    ends = {"cancelled", "dnd_drop_performed"}
    return c.wait(lambda e: e[0] == drag.source and e[2] in ends)[2]


def gives_drop(c: Guest, drag: Drag, content: bytes) -> str:
    """Let go, write it to the client that asks, and return the drag's last event."""
    if let_go(c, drag) == "cancelled":
        return "cancelled"
    with os.fdopen(c.asked(drag.source), "wb") as out:
        out.write(content)
    ends = {"cancelled", "dnd_finished"}
    return c.wait(lambda e: e[0] == drag.source and e[2] in ends)[2]


def shown(c: Guest) -> list[str]:
    """Return the names of the drag events that a window received."""
    c.roundtrip()
    names = {"enter", "motion", "drop", "data_offer"}
    return [e[2] for e in c.events if e[0] == c.device and e[2] in names]


def takes_drop(c: Guest, mime: bytes = TEXT) -> bytes:
    """Accept a drop on the window, and read it."""
    entered = c.wait(lambda e: e[0] == c.device and e[2] == "enter")[3]
    serial, offer = entered[0], entered[4]
    c.send(offer, "accept", serial, mime)
    c.send(offer, "set_actions", 1, 1)
    c.wait(lambda e: e[0] == c.device and e[2] == "drop")
    theirs, ours = os.pipe()
    c.send(offer, "receive", mime, fds=[ours])
    os.close(ours)
    with os.fdopen(theirs, "rb") as pipe:
        found = pipe.read()
    c.send(offer, "finish")
    c.send(offer, "destroy")
    c.roundtrip()
    return found


def takes(c: Guest, mime: bytes = TEXT) -> bytes:
    """Read the current offer."""
    c.wait(lambda e: e[2] == "offer" and e[3][0] == mime)
    offer = [e[3][0] for e in c.events if e[2] == "data_offer"][-1]
    theirs, ours = os.pipe()
    c.send(offer, "receive", mime, fds=[ours])
    os.close(ours)
    with os.fdopen(theirs, "rb") as pipe:
        return pipe.read()
