"""Letters by the position of their keys: what a keyboard without Latin letters means.

A layout such as the Russian or the Greek one types no Latin letter.  Most keyboards sold
for it bear the letters of the American layout beside its own, at these positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_ROWS = ((16, "qwertyuiop"), (30, "asdfghjkl"), (44, "zxcvbnm"))
"""The evdev code of a row's first key (linux/input-event-codes.h), and its letters."""
US_LETTERS: Mapping[int, str] = MappingProxyType(
    {first + place: letter for first, row in _ROWS for place, letter in enumerate(row)}
)
"""Letters of the American layout, by Wayland's and the kernel's code of their key."""
