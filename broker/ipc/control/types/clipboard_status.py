"""The clipboard between sandboxes."""

from __future__ import annotations

from broker.ipc.control.types.base import ApiAnswer


class ClipboardOffer(ApiAnswer, frozen=True, kw_only=True):
    """Pasted content that may still be read."""

    source: str
    target: str
    seconds: float
    """Until it is taken back."""


class ChordTrouble(ApiAnswer, frozen=True, kw_only=True):
    """A sandbox whose windows know no chords, or not both."""

    sandbox: str
    reason: str


class ClipboardStatus(ApiAnswer, frozen=True, kw_only=True):
    """The clipboard between sandboxes; never content."""

    source: str
    """The sandbox whose content is held for a paste; empty: none."""
    types: list[str]
    size: int
    """Bytes, of all types together."""
    seconds: float
    """Until it is wiped."""
    offered: list[ClipboardOffer]
    exported: str
    """The sandbox whose content the user's own selection holds, as far as known."""
    focused: str
    """The sandbox that has the keyboard; empty: none, or two say so."""
    copy_chord: str
    paste_chord: str
    preset: str
    """The name of the preset of both chords; empty: the user's own chords."""
    problem: str = ""
    """Why the file that chooses chords does not hold."""
    troubles: list[ChordTrouble] = []
