"""What becomes of a key event: between the filter of a window and the chords."""

from __future__ import annotations

import enum


class KeyVerdict(enum.Enum):
    """What becomes of one key event."""

    FORWARD = "forward"
    SWALLOW = "swallow"
    COPY = "copy"
    """Swallowed, and the person asks to copy out of this sandbox."""
    PASTE = "paste"
    """Swallowed, and the person asks to paste into this sandbox."""
