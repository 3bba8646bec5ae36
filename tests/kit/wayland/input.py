"""A pointer for a headless wlroots compositor, as a person would move it.

sway without devices has a seat without a pointer; zwlr_virtual_pointer_v1
makes one.  Only the test uses that protocol; the filter never shows it.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import Self

from tests.kit.wayland.client import HEADER, Client, memfd

_MANAGER = "zwlr_virtual_pointer_manager_v1"
LEFT = 0x110


class _Device:
    """A client whose requests are those of protocols that the filter never shows."""

    client: Client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def _say(self, oid: int, opcode: int, body: bytes) -> None:
        self.client.raw(HEADER.pack(oid, opcode, 8 + len(body)) + body)


class Pointer(_Device):
    """``with Pointer(path, size) as p: p.move(10, 20); p.click()``."""

    def __init__(self, display: Path | str, size: tuple[int, int]) -> None:
        self.client = Client(display).start()
        self.size = size
        name, version = self.client.globals[_MANAGER]
        manager = self.client.next_id
        self.client.next_id += 1
        self.client.send(
            self.client.registry, "bind", name, _MANAGER.encode(), version, manager
        )
        self.pointer = self.client.next_id
        self.client.next_id += 1
        self._say(manager, 0, struct.pack("=II", 0, self.pointer))
        self.client.roundtrip()

    def _now(self) -> int:
        return int(time.monotonic() * 1000) & 0xFFFFFFFF

    def _frame(self) -> None:
        self._say(self.pointer, 4, b"")
        self.client.roundtrip()

    def move(self, x: int, y: int) -> None:
        """Move to a point of the screen."""
        self._say(self.pointer, 1, struct.pack("=IIIII", self._now(), x, y, *self.size))
        self._frame()

    def by(self, dx: float, dy: float) -> None:
        """Move so far."""
        body = struct.pack("=Iii", self._now(), int(dx * 256), int(dy * 256))
        self._say(self.pointer, 0, body)
        self._frame()

    def button(self, pressed: bool, which: int = LEFT, at: int | None = None) -> None:
        """Press or release a button, ``at`` a time in milliseconds; None: now."""
        when = self._now() if at is None else at
        self._say(self.pointer, 2, struct.pack("=III", when, which, int(pressed)))
        self._frame()

    def scroll(self, steps: int) -> None:
        """Turn the wheel; down is above 0."""
        for _ in range(abs(steps)):
            step = 1 if steps > 0 else -1
            self._say(self.pointer, 5, struct.pack("=I", 0))
            body = struct.pack("=IIii", self._now(), 0, step * 15 * 256, step)
            self._say(self.pointer, 7, body)
            self._frame()

    def glide(self, pixels: int) -> None:
        """Scroll with two fingers of a touchpad, and lift them; down is above 0."""
        for part in (pixels // 2, pixels - pixels // 2):
            self._say(self.pointer, 5, struct.pack("=I", 1))
            self._say(self.pointer, 3, struct.pack("=IIi", self._now(), 0, part * 256))
            self._frame()
        self._say(self.pointer, 5, struct.pack("=I", 1))
        self._say(self.pointer, 6, struct.pack("=II", self._now(), 0))
        self._frame()

    def click(self, x: int, y: int, which: int = LEFT) -> None:
        """Move there, press and release.

        Both at one time: GTK closes a menu that a button held for 500 ms has opened,
        and a compositor may take so long between them.
        """
        self.move(x, y)
        now = self._now()
        self.button(True, which, now)
        self.button(False, which, now)


_KEYBOARDS = "zwp_virtual_keyboard_manager_v1"
_KEYMAP = (
    b'xkb_keymap { xkb_keycodes { include "evdev+aliases(qwerty)" };'
    b' xkb_types { include "complete" }; xkb_compat { include "complete" };'
    b' xkb_symbols { include "pc+us+inet(evdev)" }; };\0'
)


_ROWS = ((2, "1234567890"), (16, "qwertyuiop"), (30, "asdfghjkl"), (44, "zxcvbnm"))
_OTHERS = (12, 13, 26, 27, 28, 39, 40, 41, 43, 51, 52, 53, 57)
CODES = {
    **{char: first + n for first, row in _ROWS for n, char in enumerate(row)},
    **dict(zip("-=[]\n;'`\\,./ ", _OTHERS, strict=True)),
}
"""evdev's code of each key that ``Keyboard.type`` knows, by the character without Shift."""
_SHIFTED = {
    **{char.upper(): char for char in "abcdefghijklmnopqrstuvwxyz"},
    **dict(zip('!@#$%^&*()_+{}:"~|<>?', "1234567890-=[];'`\\,./", strict=True)),
}

SHIFT = 1

CONTROL = 1 << 2
"""The bit of a modifier in xkb's own order: Shift, Lock, Control."""
_KEY_OF = {SHIFT: 42, CONTROL: 29}


class Keyboard(_Device):
    """A keyboard that stays: wtype's own goes after each word."""

    def __init__(self, display: Path | str, keymap: bytes = _KEYMAP) -> None:
        self.client = Client(display).start()
        seat = self.client.bind("wl_seat", 1)
        name, version = self.client.globals[_KEYBOARDS]
        manager, self.keyboard = self.client.next_id, self.client.next_id + 1
        self.client.next_id += 2
        self.client.send(
            self.client.registry, "bind", name, _KEYBOARDS.encode(), version, manager
        )
        self._say(manager, 0, struct.pack("=II", seat, self.keyboard))
        fd = memfd(len(keymap))
        os.pwrite(fd, keymap, 0)
        head = HEADER.pack(self.keyboard, 0, 16) + struct.pack("=II", 1, len(keymap))
        self.client.raw(head, [fd])
        os.close(fd)
        self.client.roundtrip()

    def press(self, code: int) -> None:
        """Press and release a key by its evdev code."""
        for state in (1, 0):
            self.change(code, state)
        self.client.roundtrip()

    def type(self, text: str) -> None:
        """Press the keys of these characters of an American keyboard in turn."""
        for char in text:
            if char in _SHIFTED:
                self.chord(SHIFT, _SHIFTED[char])
            else:
                self.press(CODES[char])

    def chord(self, held: int, char: str) -> None:
        """Press a key while a modifier is held: by its key and by its bit.

        A nested compositor looks at the key, others at the bit.
        """
        self.change(_KEY_OF[held], 1)
        self.modifiers(held)
        self.press(CODES[char])
        self.change(_KEY_OF[held], 0)
        self.modifiers(0)

    def change(self, code: int, state: int) -> None:
        """Press (1) or release (0) a key."""
        now = int(time.monotonic() * 1000) & 0xFFFFFFFF
        self._say(self.keyboard, 1, struct.pack("=III", now, code, state))

    def modifiers(self, held: int, layout: int = 0) -> None:
        """The state of modifiers, which a virtual keyboard tells itself."""
        self._say(self.keyboard, 2, struct.pack("=IIII", held, 0, 0, layout))
        self.client.roundtrip()
