"""Verdicts on key events: from the chords to the filter of a window."""

from __future__ import annotations

import enum


class KeyVerdict(enum.Enum):
    """Verdict on one key event."""

    FORWARD = "forward"
    SWALLOW = "swallow"
    COPY = "copy"
    """Swallowed, and the user asks to copy out of this sandbox."""
    PASTE = "paste"
    """Swallowed, and the user asks to paste into this sandbox."""
