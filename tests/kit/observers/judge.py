"""Independent observers of a hostile client: honest clients, and the screen.

What the filter believes is not asked.  A person clicks and types; an honest
client of another sandbox and one of the desktop's own report their events, a
screenshot shows the screen, and ``/proc`` how much the compositor worked.
Each judgement that fails raises ``SeenError`` with the promise that was broken.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from broker.core.limits import wayland as limits
from tests.kit.observers.connection import CONTENT, CURSOR
from tests.kit.observers.gains import Gains
from tests.kit.observers.honest import LEFT_WAIT, Claims, Observer, SeenError
from tests.kit.observers.hostile import ENDED, Hostile
from tests.kit.observers.touched import (
    DESKTOP,
    FINGER,
    HOSTILE_FINGER,
    judge_heard,
    judge_tap,
)
from tests.kit.wayland.input import CODES
from tests.kit.wayland.pixels import mask
from tests.kit.wayland.resizing import kept, picture_name
from tests.kit.wayland.touch import Fingers

_BLOCK = 24
"""Side of the square of a window's own colour that a person clicks into."""
_EDGE = 3
"""The same of a frame, which is thinner."""
_REACH = 64
"""How far from the pointer its image may reach: the cap of its side, rounded."""
_AFTER_INPUT = 3.5
"""Seconds after which a window is no answer to input any more."""
_LETTERS = "asdfghjkl"
_TYPED = {CODES[letter] for letter in _LETTERS}
"""Keys that are typed into honest windows only; the hostile ones get another."""
_ESCAPE, _SHIFT, _SUPER = 1, 42, 125
"""Codes of keys (linux/input-event-codes.h), and their bits in the keymap's state."""
_SHIFT_BIT, _SUPER_BIT = 1, 64


class Prompt(Protocol):
    """The broker's own question, as the person sees and answers it."""

    deny: tuple[int, int]

    def show(self) -> None:
        """Put a question on the screen; returns when it is there."""

    def armed(self) -> None:
        """Wait until a click counts."""

    def answer(self) -> bool | None:
        """Return the answer that the broker received; None: no answer came."""


def busy(pid: int) -> float:
    """Seconds of CPU that a process has used (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Judge:
    """A person between observers and a hostile client, in a client's thread."""

    def __init__(
        self, mouse: Any, keys: Any, look: Callable[[], Image.Image],
        claims: Claims, pid: int, frames: tuple[int, ...],
        *, ends_cancel: bool = False, window_menus: bool = False,
        waits: float = 0.0,
    ) -> None:  # fmt: skip
        """``ends_cancel``: the compositor cancels a selection when a client ends that has

        its newest offer, as weston 10 does with any client, filtered or not.
        ``window_menus``: the compositor has menus for windows, which take the first
        press elsewhere, as KWin's do; the person closes one with Escape.
        ``waits``: seconds for which the compositor waits for a window that does not
        answer, and takes clicks into others for clicks on a title bar: sway 1.12 does
        so for 0.2 s, once for each change that waits, and no event says when.
        """
        self.mouse, self.keys, self.look = mouse, keys, look
        self.claims, self.pid, self.frames = claims, pid, frames
        self.observers: list[Observer] = []
        self.neighbour: Observer
        self.hostile: Hostile
        self.gains: Gains
        self.judged = self.hidden = self.leaves = self.number = 0
        self.busiest, self.taken = 0.0, 0
        self.ends_cancel, self._ends = ends_cancel, 0
        self.window_menus = window_menus
        self.waits = waits
        self.fingers: Fingers | None = None
        """The person's, where the compositor has touch."""
        self.corner = 0, 0
        """Of the touch screen, in pictures."""
        self.taps = 0

    # -- the person ----------------------------------------------------------------

    def spot(self, color: int, b: int = _BLOCK) -> tuple[int, int] | None:
        """A point of the screen in the middle of some block of that colour."""
        seen = mask(self.look(), color)
        sums = np.pad(seen.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
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
        # mutter takes pointer and keyboard from a window while it is moved, and a copy
        # needs a serial since the keyboard came: the person clicks again, and copies.
        assert observer.eventually(observer.focused), f"{observer.name}: no keyboard"
        self.mouse.move(x + 1, y + 1)
        assert observer.eventually(observer.entered), f"{observer.name}: no pointer"
        since = len(observer.events)
        self.mouse.button(True)
        self.mouse.button(False)

        def presses() -> list[int]:
            return [a[0] for a in observer.heard("button", since) if a[3]]

        assert observer.eventually(lambda: bool(presses()))
        self.mouse.move(5, 5)
        observer.own_selection(presses()[0])

    def go(self, x: int, y: int) -> None:
        """Move there; a nested KWin takes the first place for a jump."""
        self.mouse.move(x - 2 if x > 1 else x + 2, y)
        self.mouse.move(x, y)

    def click(self, observer: Observer, tries: int = 3) -> bool:
        """Click into its window, and see that it heard it and has the keyboard."""
        place = self.spot(observer.color)
        if place is None:
            self.hidden += 1
            if self.gains.is_fullscreen():
                self.gains.animation.exclude_gap()
            return False
        self._answered(observer)
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
            # A window that the hostile client asked for before may be laid out between
            # the picture and the press: the person clicks where the window is now.
            moved = self.spot(observer.color)
            if moved != place and tries > 1:
                return self.click(observer, tries - 1)
            kept(picture_name("click"), self.look())
            raise SeenError(f"a click into {observer.name} at {place} did not reach it")
        if self.hostile.mapped != mapped:
            return False  # a new window may have the keyboard now
        if not observer.eventually(observer.focused):
            raise SeenError(f"{observer.name} was clicked and has no keyboard")
        return True

    def _answered(self, observer: Observer) -> None:
        """Let the honest programs answer pings before a click; close a window's menu."""
        for each in (*self.observers, self.neighbour, observer):
            each.roundtrip()
        time.sleep(self.waits)
        if self.window_menus:
            self.keys.press(_ESCAPE)

    def visit(self) -> None:
        """Click into a window of the hostile client, and type there."""
        place = self.spot(CONTENT)
        if place is not None:
            self.go(*place)
            self.mouse.button(True)
            self.hostile.act(1)
            self.mouse.button(False)
            self.keys.press(CODES["q"])

    def tap(self, observer: Observer) -> None:
        """Touch a window of the hostile client, then an observer's, and judge."""
        if self.fingers is None:
            return
        left, top = self.corner
        for color, finger in ((CONTENT, HOSTILE_FINGER), (observer.color, FINGER)):
            place = self.spot(color)
            if place is None:
                continue
            self._answered(observer)
            since, (x, y) = len(observer.events), place
            mapped = self.hostile.mapped
            self.fingers.down(finger, x - left, y - top)
            self.hostile.act(2)
            self.fingers.motion(finger, x - left + 3, y - top + 3)
            self.fingers.up(finger)
            if finger == FINGER:
                if self.window_menus:  # one that opened meanwhile has the keyboard
                    self.keys.press(_ESCAPE)
                judge_tap(observer, since, focus=self.hostile.mapped == mapped)
                self.taps += 1
            if finger == HOSTILE_FINGER:  # and the desktop, where no window is
                self.fingers.down(FINGER, *DESKTOP)
                self.fingers.up(FINGER)
        for connection in self.hostile.connections:
            with contextlib.suppress(*ENDED):
                connection.listen()
            judge_heard(connection)

    def type_into(self, observer: Observer) -> None:
        """Type a letter; it must come to the observer and to no other client."""
        self.number += 1
        letter = _LETTERS[self.number % len(_LETTERS)]
        marks, since = self.hostile.marks(), len(observer.events)
        self.keys.press(CODES[letter])

        def typed() -> bool:
            told = [a[2:4] for a in observer.heard("key", since, observer.keyboard)]
            return told == [[CODES[letter], 1], [CODES[letter], 0]]

        came = observer.eventually(typed)
        stolen = set(self.hostile.keys_since(marks)) & _TYPED
        if stolen:
            raise SeenError(f"a key typed into {observer.name} was heard: {stolen}")
        if not came:
            raise SeenError(f"a key typed into {observer.name} did not come")

    # -- one step --------------------------------------------------------------------

    def step(self, *, windows: bool = False) -> None:
        """The hostile client acts, the person works, all promises are judged."""
        began, used = time.monotonic(), busy(self.pid)
        self.visit()
        self.hostile.act(6, windows=windows)
        observer = self.observers[self.judged % len(self.observers)]
        if self.click(observer):
            self.type_into(observer)
            self._undisturbed(observer)
        self.tap(observer)
        self._shown()
        for each in self.observers:
            each.keymap_kept()
        self._selections_kept()
        if windows:
            self._chord(observer)
        elif self.judged % 3 == 0:
            self._copy_kept()
        self.judged += 1
        spent = (busy(self.pid) - used) / (time.monotonic() - began)
        self.busiest = max(self.busiest, spent)

    def paced(self, seconds: float) -> None:
        """The keyboard is not taken more often than windows may open without input.

        Takes at most so many seconds; less when the windows are refused.
        """
        observer = self.observers[-1]
        clicked = any(self.click(observer) for _ in range(5))
        assert clicked, "the observer's window is hidden"
        time.sleep(_AFTER_INPUT)
        observer.roundtrip()
        since, marks = len(observer.events), self.hostile.marks()
        end = time.monotonic() + seconds
        letter = CODES[_LETTERS[0]]
        while time.monotonic() < end:
            # The user types on, whatever comes up.
            if not self.hostile.play_for_focus(partial(self.keys.press, letter)):
                break
            observer.roundtrip()
            self.taken = observer.leaves(since)
            if self.taken > limits.WAYLAND_MAPPINGS_PER_MINUTE:
                raise SeenError(
                    f"windows without input took the keyboard {self.taken} times"
                )
        # Each is heard when it is pressed and when it is released.
        heard = sum(c.times_heard(letter, at) for c, at in marks)
        self.gains.stolen = -(-heard // 2)
        self.gains.judge()

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
        if keys := set(self.hostile.keys_since(marks)) & _TYPED:
            raise SeenError(f"keys typed elsewhere were heard: {keys}")

    def _chord(self, observer: Observer) -> None:
        """A chord that begins in an observer's window is no other sandbox's."""
        if not self.click(observer):
            return
        self.keys.change(_SUPER, 1)
        self.keys.modifiers(_SUPER_BIT)
        self.keys.change(_SHIFT, 1)
        self.keys.modifiers(_SUPER_BIT | _SHIFT_BIT)
        self._between(observer)
        self.keys.press(CODES["c"])
        for key in (_SHIFT, _SUPER):
            self.keys.change(key, 0)
        self.keys.modifiers(0)
        observer.roundtrip()
        if self.claims.chords:
            raise SeenError("a window that came between took a chord for its own")

    def _between(self, observer: Observer) -> None:
        """A window of the hostile client comes, most often with the keyboard."""
        del observer
        self.hostile.come_between()

    def _selections_kept(self) -> None:
        ended = self.ends_cancel and self.hostile.ends != self._ends
        self._ends = self.hostile.ends
        for each in self.observers:
            if ended and each.lost_selection():
                each.own_selection(each.heard("button")[-1][0])
            each.selection_kept()

    def _copy_kept(self) -> None:
        """A copy stays the sandbox's selection while its program has the keyboard.

        The program is an honest one of the same sandbox: input of others is
        only ever that sandbox's selection, so it must be what the person copied.
        """
        neighbour, mapped = self.neighbour, self.hostile.mapped
        since, ends = len(neighbour.events), self.hostile.ends
        if not self.click(neighbour):
            return
        serial = neighbour.heard("button", since, neighbour.pointer)[0][0]
        since = len(neighbour.events)
        neighbour.own_selection(serial)
        self.hostile.take_selection()
        neighbour.roundtrip()
        disturbed = neighbour.leaves(since) or self.hostile.mapped != mapped
        disturbed = disturbed or (self.ends_cancel and self.hostile.ends != ends)
        if neighbour.lost_selection() and not disturbed:
            raise SeenError("a program in the background replaced a copy")

    def _undisturbed(self, observer: Observer) -> None:
        """While the person works on, others act; only a new window takes focus."""
        since, mapped = len(observer.events), self.hostile.mapped
        self.hostile.act(4)
        self._opened(observer)
        observer.roundtrip()
        lost = observer.leaves(since)
        self.leaves += lost
        if lost and self.hostile.mapped == mapped:
            raise SeenError(f"{observer.name} lost the keyboard without a new window")
        if not lost:
            clock = self.gains.animation.clock
            began = clock()
            if self.claims.claimed and not observer.eventually(
                lambda: not self.claims.claimed
            ):
                raise SeenError(
                    f"a sandbox claims the keyboard that {observer.name} has"
                )
            self.gains.claimed = max(self.gains.claimed, clock() - began)
            self.type_into(observer)

    def _opened(self, observer: Observer) -> None:
        """Wait until the compositor has shown the hostile client's newest window.

        Only one that shows it, and gives it the keyboard, later than it answers.
        """

    def _shown(self) -> None:
        """The hostile pointer image is where the pointer is, on its own content."""
        places = [(CONTENT, _BLOCK), (self.observers[0].color, _BLOCK)]
        places += [(frame, _EDGE) for frame in self.frames]
        for color, block in places:
            place = self.spot(color, block)
            if place is None:
                continue
            self.go(*place)
            for observer in self.observers:
                observer.roundtrip()
            self.hostile.act(4)
            if color == CONTENT:
                self._image_near(place)
            else:
                self._no_image(place, color)

    def _image(self, place: tuple[int, int]) -> tuple[int, ...]:
        """Where the hostile pointer image is, from the pointer; empty for nowhere."""
        rows, columns = mask(self.look(), CURSOR).nonzero()
        if not len(rows):
            return ()
        x, y = place
        box = (columns.min() - x, rows.min() - y, columns.max() - x, rows.max() - y)
        return tuple(int(side) for side in box)

    def _image_near(self, place: tuple[int, int]) -> None:
        box = self._image(place)
        if box and max(abs(side) for side in box) > _REACH:
            raise SeenError(f"its pointer image is {box} from the pointer")

    def _no_image(self, place: tuple[int, int], color: int) -> None:
        """It goes as soon as the filter has heard that the pointer is there."""
        end = time.monotonic() + LEFT_WAIT
        while box := self._image(place):
            if time.monotonic() > end:
                kept(picture_name("image"), self.look())
                self.mouse.move(5, 5)
                if not mask(self.look(), color)[place[1], place[0]]:
                    return  # a window or a menu of its own has come below the pointer
                raise SeenError(
                    f"its pointer image is {box} from the pointer at {place}, over a"
                    f" frame or another's window of colour {color:06x}"
                )
            time.sleep(0.05)
