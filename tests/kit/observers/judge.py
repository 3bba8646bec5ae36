"""Independent observers of a hostile client: honest clients, and the screen.

What the filter believes is not asked.  A person clicks and types; an honest
client of another sandbox and one of the desktop's own say what they heard, a
screenshot says what is shown, and ``/proc`` how much the compositor worked.
Each judgement that fails raises ``SeenError`` with the promise that was broken.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from tests.kit.observers.hostile import CONTENT, CURSOR, Hostile
from tests.kit.wayland.client import Window
from tests.kit.wayland.input import CODES
from tests.kit.wayland.pixels import mask
from tests.kit.wayland.resizing import kept, picture_name

LEFT_WAIT = 8.0
"""Seconds in which an honest client must have heard of a click or a key."""
_BLOCK = 24
"""Side of the square of a window's own colour that a person clicks into."""
_REACH = 64
"""How far from the pointer its image may reach: the cap of its side."""
_LETTERS = "asdfghjkl"
_SHIFT, _SUPER = 42, 125
"""Codes of keys (linux/input-event-codes.h), and their bits in the keymap's state."""
_SHIFT_BIT, _SUPER_BIT = 1, 64


class SeenError(AssertionError):
    """An observer saw what must never be seen."""


class Observer(Window):
    """An honest client with a window of one colour, which owns a selection."""

    def begin(self, name: str, color: int) -> Observer:
        """Show the window and listen."""
        self.start()
        self.name, self.color = name, color
        self.seat = self.bind("wl_seat", min(5, self.globals["wl_seat"][1]))
        self.pointer = self.make(self.seat, "get_pointer", "wl_pointer")
        self.keyboard = self.make(self.seat, "get_keyboard", "wl_keyboard")
        self.manager = self.bind("wl_data_device_manager")
        self.device = self.make(
            self.manager, "get_data_device", "wl_data_device", None, self.seat
        )
        self.source = 0
        surface = self.surface()
        xdg, top = self.toplevel(surface)
        self.top = top
        self.send(top, "set_title", name.encode())
        self.send(surface, "commit")
        self.configured(xdg)
        self.paint(surface, 320, 220, 0xFF000000 | color)
        self.send(surface, "commit")
        self.roundtrip()
        self.keymap = self._keymap()
        return self

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
        """Nobody has written into the keymap that it uses, or will be sent.

        The person's keyboard stays the same, so each keymap is the first one.
        """
        now = self._keymap()
        if now != self.keymap:
            raise SeenError(f"the keymap of {self.name} was {self.keymap}, is {now}")
        self.make(self.seat, "get_keyboard", "wl_keyboard")
        self.roundtrip()
        newest = max(o for o, kind in self.kinds.items() if kind == "wl_keyboard")
        self.send(newest, "release")
        if (now := self._keymap()) != self.keymap:
            raise SeenError(f"a new keymap of {self.name} is {now}, not {self.keymap}")

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
        """Who is told of drags: nothing of one crosses."""
        return self

    def started(self, _source: Any) -> None:
        """One of its drags began."""

    performed = ended = over = dropped = started

    def outward(self, _source: Any) -> tuple[bytes, ...]:
        """Nothing of it is for others."""
        return ()

    def wanted(self, *_: Any) -> bool:
        """Nobody may have it."""
        return False


class Prompt(Protocol):
    """The broker's own question, as the person sees and answers it."""

    deny: tuple[int, int]

    def show(self) -> None:
        """Put a question on the screen; returns when it is there."""

    def armed(self) -> None:
        """Wait until a click counts."""

    def answer(self) -> bool | None:
        """What it heard; None when nothing came."""


def busy(pid: int) -> float:
    """Seconds of CPU that a process has used (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Judge:
    """A person between observers and a hostile client, in a client's thread."""

    def __init__(
        self, mouse: Any, keys: Any, look: Callable[[], Image.Image],
        claims: Claims, pid: int,
    ) -> None:  # fmt: skip
        self.mouse, self.keys, self.look = mouse, keys, look
        self.claims, self.pid = claims, pid
        self.observers: list[Observer] = []
        self.hostile: Hostile
        self.judged = self.hidden = self.leaves = self.number = 0
        self.busiest = 0.0

    # -- the person ----------------------------------------------------------------

    def spot(self, color: int) -> tuple[int, int] | None:
        """A point of the screen in the middle of some block of that colour."""
        seen = mask(self.look(), color)
        sums = np.pad(seen.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        b = _BLOCK
        area = sums[b:, b:] - sums[:-b, b:] - sums[b:, :-b] + sums[:-b, :-b]
        rows, columns = (area == b * b).nonzero()
        if not len(rows):
            return None
        at = len(rows) // 2
        return int(columns[at]) + b // 2, int(rows[at]) + b // 2

    def until_shown(self, observer: Observer) -> None:
        """Wait until its window is on the screen."""
        end = time.monotonic() + LEFT_WAIT
        while self.spot(observer.color) is None:
            if time.monotonic() > end:
                kept(picture_name("hidden"), self.look())
                raise AssertionError(f"{observer.name} is not on the screen")
            observer.roundtrip()

    def place(self, observer: Observer, x: int, y: int) -> None:
        """Drag its window by its content, as its program lets the person."""
        self.until_shown(observer)
        at = self.spot(observer.color)
        assert at is not None
        since = len(observer.events)
        self.go(*at)
        observer.eventually(lambda: bool(observer.heard("enter", since)))
        self.mouse.button(True)
        assert observer.eventually(lambda: bool(observer.heard("button", since)))
        serial = observer.heard("button", since)[-1][0]
        observer.send(observer.top, "move", observer.seat, serial)
        observer.roundtrip()
        for step in range(1, 9):
            self.mouse.move(
                at[0] + (x - at[0]) * step // 8, at[1] + (y - at[1]) * step // 8
            )
            observer.roundtrip()
        self.mouse.button(False)
        self.mouse.move(5, 5)
        observer.own_selection(serial)

    def go(self, x: int, y: int) -> None:
        """Move there; a nested KWin takes the first place for a jump."""
        self.mouse.move(x - 2, y)
        self.mouse.move(x, y)

    def click(self, observer: Observer) -> bool:
        """Click into its window, and see that it heard it and has the keyboard."""
        place = self.spot(observer.color)
        if place is None:
            self.hidden += 1
            return False
        since, mapped = len(observer.events), self.hostile.mapped
        self.go(*place)
        self.mouse.button(True)
        self.hostile.act(2)
        self.mouse.move(place[0] + 3, place[1] + 3)
        self.mouse.button(False)

        def clicked() -> bool:
            told = [a[3] for a in observer.heard("button", since, observer.pointer)]
            return told[:2] == [1, 0]

        if not observer.eventually(clicked):
            raise SeenError(f"a click into {observer.name} at {place} did not reach it")
        if self.hostile.mapped != mapped:
            return False  # a new window may have the keyboard now
        if not observer.eventually(observer.focused):
            raise SeenError(f"{observer.name} was clicked and has no keyboard")
        return True

    def visit(self) -> None:
        """Click into a window of the hostile client, and type there."""
        place = self.spot(CONTENT)
        if place is not None:
            self.go(*place)
            self.mouse.button(True)
            self.hostile.act(1)
            self.mouse.button(False)
            self.keys.press(CODES["q"])

    def type_into(self, observer: Observer) -> None:
        """Type a letter; it must come to the observer, and to nobody else."""
        self.number += 1
        letter = _LETTERS[self.number % len(_LETTERS)]
        marks, since = self.hostile.marks(), len(observer.events)
        self.keys.press(CODES[letter])

        def typed() -> bool:
            told = [a[2:4] for a in observer.heard("key", since, observer.keyboard)]
            return told == [[CODES[letter], 1], [CODES[letter], 0]]

        came = observer.eventually(typed)
        stolen = self.hostile.keys_since(marks)
        if stolen:
            raise SeenError(f"a key typed into {observer.name} was heard: {stolen}")
        if not came:
            raise SeenError(f"a key typed into {observer.name} did not come")

    # -- one step --------------------------------------------------------------------

    def step(self, *, windows: bool = False) -> None:
        """The hostile client acts, the person works, all promises are judged."""
        began, used = time.monotonic(), busy(self.pid)
        if self.judged % 2 == 0:
            self.visit()
        self.hostile.act(6, windows=windows)
        observer = self.observers[self.judged % len(self.observers)]
        if self.click(observer):
            self.type_into(observer)
            self._undisturbed(observer)
        self._shown()
        for each in self.observers:
            each.keymap_kept()
        if windows:
            self._chord(observer)
        self.judged += 1
        spent = (busy(self.pid) - used) / (time.monotonic() - began)
        self.busiest = max(self.busiest, spent)

    def flooded(self, seconds: float = 1.5, bound: float = 0.6) -> None:
        """Its requests keep no core busy: the compositor is there for others."""
        used, began = busy(self.pid), time.monotonic()
        self.hostile.flood(seconds)
        spent = (busy(self.pid) - used) / (time.monotonic() - began)
        self.busiest = max(self.busiest, spent)
        if spent > bound:
            raise SeenError(f"the compositor is {spent:.0%} busy for a flood")

    def prompted(self, prompt: Prompt) -> None:
        """The prompt appears under a hostile pointer image, and is answered no."""
        self._shown()
        marks = self.hostile.marks()
        prompt.show()
        x, y = prompt.deny
        self.go(x, y)
        self.hostile.act(2)
        prompt.armed()
        if len(mask(self.look(), CURSOR).nonzero()[0]):
            raise SeenError("a sandbox's pointer image is over the prompt")
        self.mouse.button(True)
        self.mouse.button(False)
        answer = prompt.answer()
        if answer is not False:
            raise SeenError(f"the person pressed Deny, and the prompt heard {answer}")
        if keys := self.hostile.keys_since(marks):
            raise SeenError(f"keys typed at the prompt were heard: {keys}")

    def _chord(self, observer: Observer) -> None:
        """A chord that begins in an observer's window is no other sandbox's."""
        if not self.click(observer):
            return
        self.keys.change(_SUPER, 1)
        self.keys.modifiers(_SUPER_BIT)
        self.keys.change(_SHIFT, 1)
        self.keys.modifiers(_SUPER_BIT | _SHIFT_BIT)
        self.hostile.come_between()
        self.keys.press(CODES["c"])
        for key in (_SHIFT, _SUPER):
            self.keys.change(key, 0)
        self.keys.modifiers(0)
        observer.roundtrip()
        if self.claims.chords:
            raise SeenError("a window that came between took a chord for its own")

    def _undisturbed(self, observer: Observer) -> None:
        """While the person works on, others act; only a new window takes focus."""
        since, mapped = len(observer.events), self.hostile.mapped
        self.hostile.act(4)
        observer.roundtrip()
        lost = observer.leaves(since)
        self.leaves += lost
        if lost and self.hostile.mapped == mapped:
            raise SeenError(f"{observer.name} lost the keyboard without a new window")
        if not lost:
            if self.claims.claimed and not observer.eventually(
                lambda: not self.claims.claimed
            ):
                raise SeenError(
                    f"a sandbox claims the keyboard that {observer.name} has"
                )
            self.type_into(observer)

    def _shown(self) -> None:
        """The hostile pointer image is where the pointer is, on its own content."""
        for color, own in ((CONTENT, True), (self.observers[0].color, False)):
            place = self.spot(color)
            if place is None:
                continue
            self.go(*place)
            for observer in self.observers:
                observer.roundtrip()
            self.hostile.act(4)
            self.image_judged(place, own=own)

    def image_judged(self, place: tuple[int, int], *, own: bool) -> None:
        """One look at where the hostile pointer image is."""
        rows, columns = mask(self.look(), CURSOR).nonzero()
        if not len(rows):
            return
        x, y = place
        box = (columns.min() - x, rows.min() - y, columns.max() - x, rows.max() - y)
        if not own:
            raise SeenError(f"its pointer image is on another's window, at {box}")
        if max(abs(int(side)) for side in box) >= _REACH:
            raise SeenError(f"its pointer image is {box} from the pointer")
