"""The secure chords of a user's choice; ``jail.clipboard.chord_recogniser`` finds them.

The worker recognises them; the viewer sends it those that a session child has read from
the user's file.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker.core.errors import SetupError

_WORDS = {
    "shift": "Shift",
    "ctrl": "Control",
    "control": "Control",
    "alt": "Alt",
    "super": "Super",
    "win": "Super",
}


@dataclass(frozen=True)
class Chord:
    """Modifiers (Shift, Control, Alt, Super), exactly these, and a symbol's name."""

    modifiers: frozenset[str]
    symbol: str

    @classmethod
    def parse(cls, text: str) -> Chord:
        """Parse a chord such as ``Super+Shift+C``.  Raises SetupError.

        The last word is a letter or an XKB symbol's name.
        """
        *words, symbol = (word.strip() for word in text.split("+"))
        wrong = [word for word in words if word.lower() not in _WORDS]
        named = frozenset(_WORDS[w.lower()] for w in words if w.lower() in _WORDS)
        if wrong or not symbol.isidentifier() or len(named) != len(words):
            raise SetupError(
                f"'{text}' is not a chord",
                hint="write Super, Ctrl, Alt or Shift and a key, such as Super+Shift+C",
            )
        if not named - {"Shift"}:
            raise SetupError(
                f"the chord '{text}' is part of ordinary typing",
                hint="add Super, Ctrl or Alt",
            )
        return cls(named, symbol.lower() if len(symbol) == 1 else symbol)


@dataclass(frozen=True)
class ChordPair:
    """The two chords of a user's choice."""

    copy: Chord
    paste: Chord

    def __post_init__(self) -> None:
        if self.copy == self.paste:
            raise SetupError(
                "one chord cannot both copy and paste", hint="choose two chords"
            )


DEFAULT = ChordPair(Chord.parse("Super+Shift+C"), Chord.parse("Super+Shift+V"))
QUBES = ChordPair(Chord.parse("Ctrl+Shift+C"), Chord.parse("Ctrl+Shift+V"))
INPUT_METHOD = ChordPair(Chord.parse("Super+Ctrl+C"), Chord.parse("Super+Ctrl+V"))
"""Input methods get keys before windows do: ibus with Shift takes letters, also with Super."""
PRESETS = {"vitrail": DEFAULT, "qubes": QUBES, "input-method": INPUT_METHOD}
