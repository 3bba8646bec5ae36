"""A scripted client that copies and pastes, honestly or not, on a ``clip_stand``."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

import trio

from broker.clipboard import words as w
from tests.kit.clip_stand import DEADLINE, Desk
from tests.kit.wayland_client import Window

TEXT = b"text/plain;charset=utf-8"


class Guest(Window):
    """A client with a focused window and all that copies and pastes."""

    def begin(self, it: Desk, name: str, title: str = "") -> Guest:
        self.it, self.name = it, name
        self.deadline = DEADLINE
        self.seat = self.bind("wl_seat", 5)
        self.keyboard = self.make(self.seat, "get_keyboard", "wl_keyboard")
        self.manager = self.bind("wl_data_device_manager")
        self.device = self.make(
            self.manager, "get_data_device", "wl_data_device", None, self.seat
        )
        self.window, _, top = self.show(200, 150, 0xFF336699)
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

    def copy(self) -> w.Record:
        return trio.from_thread.run(self.it.copy)

    def press_copy(self) -> None:
        trio.from_thread.run(self.it.press_copy)

    def outcome(self, before: int) -> w.Record:
        """The first record after so many."""
        return trio.from_thread.run(self.it.record_after, before)


async def guest(
    it: Desk, name: str, function, *, direct: bool = False, title: str = ""
):
    """Run a client of a sandbox in a thread, with the keyboard's focus."""
    path = it.comp.display if direct else it.rooms[name].path

    def inside():
        with Guest(path).start() as client:
            return function(client.begin(it, name, title))

    return await trio.to_thread.run_sync(inside)


def gives(c: Guest, content: bytes, mime: bytes = TEXT) -> w.Record:
    """Select, have the person copy it, and write all of it."""
    source = c.select(mime)
    before = len(c.it.records)
    c.press_copy()
    with os.fdopen(c.asked(source), "wb") as out:
        out.write(content)
    return c.outcome(before)


def serves(c: Guest, source: int, content: bytes, over: threading.Event) -> None:
    """Write it to everybody who asks: weston itself does, before anybody else."""
    done = 0
    while not over.is_set():
        with suppress(TimeoutError):
            c.sock.settimeout(0.05)
            c.read()
        # What came with a descriptor, in the order of the descriptors.
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


def takes(c: Guest, mime: bytes = TEXT) -> bytes:
    """Read what is offered now."""
    c.wait(lambda e: e[2] == "offer" and e[3][0] == mime)
    offer = [e[3][0] for e in c.events if e[2] == "data_offer"][-1]
    theirs, ours = os.pipe()
    c.send(offer, "receive", mime, fds=[ours])
    os.close(ours)
    with os.fdopen(theirs, "rb") as pipe:
        return pipe.read()
