"""Keys: letters by their position, and verdicts on their events.

A layout such as the Russian or the Greek one types no Latin letter.  Most keyboards with
such a layout also show the letters of the American one, at these positions.
Verdicts go from the chords to the filter of a window.

The worker finds chords by these, the prompt agent the letters of the word that the user
types.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

_ROWS = ((16, "qwertyuiop"), (30, "asdfghjkl"), (44, "zxcvbnm"))
"""The evdev code of a row's first key (linux/input-event-codes.h), and its letters."""
US_LETTERS: Mapping[int, str] = MappingProxyType(
    {first + place: letter for first, row in _ROWS for place, letter in enumerate(row)}
)
"""Letters of the American layout, by Wayland's and the kernel's code of their key."""


class KeyVerdict(enum.Enum):
    """Verdict on one key event."""

    FORWARD = "forward"
    SWALLOW = "swallow"
    COPY = "copy"
    """Swallowed, and the user asks to copy out of this sandbox."""
    PASTE = "paste"
    """Swallowed, and the user asks to paste into this sandbox."""
