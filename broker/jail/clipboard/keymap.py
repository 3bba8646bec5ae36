"""The part of a keymap that chords need: symbols of keys, bits of modifiers.

Symbols are compared by name, as libxkbcommon writes each by one name only.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from broker.core.clipboard.key_verdicts import US_LETTERS

EVDEV_OFFSET = 8
"""XKB's key codes are the kernel's, and Wayland's, plus eight."""

REAL = 0xFF
"""Bits of the eight real modifiers; those above are virtual ones."""

SHIFT, LOCK, CONTROL = 1, 2, 4
"""Bits of the three modifiers that are the same in every keymap."""

_DRIVEN_BY = {
    "Alt": ("Alt_L", "Alt_R"),
    "Super": ("Super_L", "Super_R"),
    "NumLock": ("Num_Lock",),
    "ScrollLock": ("Scroll_Lock",),
}
_LETTERS = frozenset(string.ascii_letters)


@dataclass(frozen=True, slots=True)
class KeymapKey:
    """The symbols of one key at level 1, for each layout of the keymap."""

    layouts: tuple[tuple[str, ...], ...]

    def symbols(self, layout: int) -> tuple[str, ...]:
        """Return a key's symbols in a layout; a layout that the keymap lacks is wrapped."""
        return self.layouts[layout % len(self.layouts)] if self.layouts else ()


@dataclass(frozen=True)
class Keymap:
    """Keys by their code in Wayland's events, and what each does to modifiers."""

    keys: Mapping[int, KeymapKey]
    modifiers: Mapping[int, int]
    """Real modifiers (bits as in wl_keyboard.modifiers) that a key drives."""

    @property
    def layouts(self) -> int:
        """The largest number of layouts that a key has."""
        return max((len(key.layouts) for key in self.keys.values()), default=0)

    def mask(self, modifier: str) -> int:
        """Return the bits of a modifier: Shift, Control, Lock, Alt, Super, NumLock, ….

        Shift, Control and Lock have fixed bits.  Another modifier has those of the
        keys that drive it, without these three; 0 where none does.
        """
        fixed = {"Shift": SHIFT, "Lock": LOCK, "Control": CONTROL}
        if modifier in fixed:
            return fixed[modifier]
        found = 0
        for code, bits in self.modifiers.items():
            key = self.keys.get(code)
            if key and any(s in _DRIVEN_BY[modifier] for s in key.symbols(0)):
                found |= bits
        return found & ~(SHIFT | LOCK | CONTROL)

    def codes(self, symbol: str, layout: int) -> frozenset[int]:
        """Return the keys that mean ``symbol`` while ``layout`` is the active one.

        If the active layout has the symbol, only its keys do.  Else the first
        other layout that has it says which, as toolkits do for shortcuts under
        a Cyrillic or Greek layout, except keys that bear a Latin letter in the
        active one: a user means the letter that is printed on the key.  In a
        keymap without any Latin letter the key at its place on an American keyboard
        means it.
        """
        found = self._bearing(symbol, layout)
        if found:
            return found
        for other in range(self.layouts):
            found = frozenset(
                code
                for code in self._bearing(symbol, other)
                if not _LETTERS.intersection(self.keys[code].symbols(layout))
            )
            # guard: a letter is itself
            if found:
                return found
        # guard: a key's position counts where no key bears a Latin letter
        if self._latin:
            return frozenset()
        return frozenset(
            code
            for code, letter in US_LETTERS.items()
            if letter == symbol and code in self.keys
        )

    @cached_property
    def _latin(self) -> bool:
        """Whether any key of any layout bears a Latin letter."""
        return any(
            _LETTERS.intersection(symbols)
            for key in self.keys.values()
            for symbols in key.layouts
        )

    # A chord's letter is the active layout's before any other's. Under a Cyrillic
    # layout no key bears c, and the user means the key that bears it in their Latin
    # one. With Dvorak and us in one keymap both have a c, on different keys. So the
    # active layout decides alone where it has the letter; else the first layout that
    # has it, without keys that bear a Latin letter now. If two chords would then be one
    # key, neither is active.
    def _bearing(self, symbol: str, layout: int) -> frozenset[int]:
        return frozenset(
            code for code, key in self.keys.items() if symbol in key.symbols(layout)
        )
