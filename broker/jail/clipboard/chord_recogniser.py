"""Recognising the secure chords in the compositor's keyboard events.

Guarantees:

* Only what the compositor sends counts.  There is no way in for anything a
  client says, and what a client can make the compositor repeat (a new
  wl_keyboard brings keymap, enter and modifiers once more) makes no chord:
  that takes a press, once for each serial.
* A chord is one window's: its modifiers go down after the focus came.  A window
  that comes between them and the letter takes neither the chord nor the letter.
* A chord's press, its repeats and its release are never shown to the client;
  the modifiers' keys and states always are, so none gets stuck.
* Symbols are looked up in the compositor's keymap, never by raw code (a
  virtual keyboard's ``h`` may be code 1).  Without a keymap that can be read
  there are no chords, and ``trouble`` says why.

A desktop program with a virtual keyboard can press a chord: it is trusted, as
is an input method.  For sandboxes those protocols are not on offer.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from broker.core.clipboard.chords import DEFAULT, Chord, ChordPair
from broker.core.clipboard.key_verdicts import KeyVerdict
from broker.core.limits import clipboard as limits
from broker.jail.clipboard.keymap import REAL, SHIFT, Keymap
from broker.jail.clipboard.keymap_text import KeymapError, read_keymap

RELEASED, PRESSED, REPEATED = 0, 1, 2
"""States in wl_keyboard.key; the last since version 10."""

_LOCKS = ("Lock", "NumLock", "ScrollLock")


@dataclass(frozen=True)
class _Ready:
    """One chord under one keymap and one layout."""

    mask: int
    codes: frozenset[int]
    verdict: KeyVerdict


class Recogniser:
    """The chords in the events of one connection's keyboards (one seat).

    Feed it every event of every wl_keyboard of the connection, in order.
    """

    def __init__(self, chords: ChordPair | None = DEFAULT) -> None:
        self._wanted = _wanted(chords)
        self._keymap: Keymap | None = None
        self._digest = b""
        self._ready: dict[int, tuple[_Ready, ...]] = {}
        self._ignored = 0
        self._had_chords = False
        """Whether an earlier keymap had them: the user's keyboard has."""
        self._state: tuple[int, int] | None = None
        self._focused = False
        self._arriving = self._tainted = False
        self._down: set[int] = set()
        self._verdicts: OrderedDict[tuple[int, int, int], KeyVerdict] = OrderedDict()
        self.trouble = "the compositor has not sent a keymap yet"
        """Why there are no chords, or less than two; empty when all is well."""

    def change(self, chords: ChordPair) -> str:
        """Change the chords to those that the user chose; return ``trouble``."""
        self._wanted = _wanted(chords)
        self._ready.clear()
        if self._keymap is not None:
            self.trouble = self._missing(self._keymap)
        return self.trouble

    # -- what the compositor says ---------------------------------------------------

    def keymap(self, text: bytes | None) -> str:
        """Set the compositor's keymap, None if it has none; return ``trouble``.

        Answers with ``trouble``.  The state of modifiers is in the old map's
        terms, so no chord is seen before the next ``modifiers``.
        """
        digest = b"" if text is None else hashlib.sha256(text).digest()
        if digest and digest == self._digest:
            return self.trouble
        # guard: modifiers forgotten with the keymap
        self._keymap, self._digest, self._state = None, digest, None
        self._ready.clear()
        if text is None:
            self.trouble = "the compositor did not send a keymap"
            return self.trouble
        try:
            self._keymap = read_keymap(text)
        except KeymapError as error:
            self.trouble = str(error)
            return self.trouble
        self._ignored = 0
        for name in _LOCKS:
            self._ignored |= self._keymap.mask(name)
        self.trouble = self._missing(self._keymap)
        if not self.trouble:
            self._had_chords = True
        elif self._had_chords and not self._tells_modifiers(self._keymap):
            # Of a program that types by a virtual keyboard, such as wtype: it has keys
            # for its characters alone.  The user's keyboard brings its own back.
            self.trouble = ""
        return self.trouble

    def enter(self, keys: Iterable[int]) -> tuple[int, ...]:
        """Handle that a window gets the focus; return the held keys that it may see.

        Those that drive modifiers: another might be a chord's, pressed in the
        window that had the focus before.
        """
        drive = self._keymap.modifiers if self._keymap else {}
        # guard: only modifiers on enter
        shown = tuple(key for key in keys if key in drive)
        if not self._focused:
            self._focused = self._arriving = True
            self._tainted = bool(shown) or self._holds()
        self._down.update(shown)
        return shown

    def leave(self) -> None:
        """The focus goes; clients take every key as released."""
        self._focused = False
        # guard: modifiers forgotten with the focus
        self._state = None
        self._down.clear()

    def modifiers(self, depressed: int, latched: int, locked: int, group: int) -> None:
        """Update the state of modifiers, as bits, and the active layout, from 0.

        Latched and locked ones count as held: so sticky keys can press a chord.
        Bits of virtual modifiers, which mutter sends beside the real ones that
        they stand for, add no information.
        """
        # guard: real modifiers only
        self._state = ((depressed | latched | locked) & REAL, group)
        if not self._holds():
            self._tainted = False
        elif self._arriving:
            self._tainted = True
        self._arriving = False

    def _holds(self) -> bool:
        """Return whether modifiers are held, locks aside."""
        return self._state is not None and bool(self._state[0] & ~self._ignored)

    def key(self, serial: int, key: int, state: int) -> KeyVerdict:
        """Return the verdict on a key event.

        The same event comes once for each wl_keyboard of the connection; all
        share the first one's verdict, and a chord is reported once.
        """
        event = (serial, key, state)
        known = self._verdicts.get(event)
        # guard: one verdict for each event
        if known is not None:
            return known
        verdict = self._judge(key, state)
        acting = verdict in {KeyVerdict.COPY, KeyVerdict.PASTE}
        # guard: a chord once
        self._verdicts[event] = KeyVerdict.SWALLOW if acting else verdict
        # guard: memory of verdicts
        if len(self._verdicts) > limits.CLIPBOARD_KEY_EVENTS:
            self._verdicts.popitem(last=False)
        return verdict

    # -- judging ----------------------------------------------------------------------

    def _judge(self, key: int, state: int) -> KeyVerdict:
        """Return the verdict about a pressed or released key, and remember it."""
        # guard: no focus, no chord
        if not self._focused:
            return KeyVerdict.SWALLOW
        if state == PRESSED:
            self._arriving = False
            verdict = self._chord(key)
            if verdict is KeyVerdict.FORWARD:
                self._down.add(key)
            return verdict
        seen = key in self._down
        if state == RELEASED:
            self._down.discard(key)
        # guard: releases of seen keys
        return KeyVerdict.FORWARD if seen else KeyVerdict.SWALLOW

    def _chord(self, key: int) -> KeyVerdict:
        """Return the verdict about a key by the held modifiers and the layout."""
        if self._keymap is None or self._state is None:
            return KeyVerdict.FORWARD
        held, layout = self._state
        ready = self._ready.get(layout)
        if ready is None:
            if len(self._ready) >= limits.CLIPBOARD_LAYOUTS:
                self._ready.clear()
            ready = self._ready[layout] = self._prepare(self._keymap, layout)
        for chord in ready:
            # guard: exact modifiers
            exact = held & ~(self._ignored & ~chord.mask) == chord.mask
            if exact and key in chord.codes:
                # guard: keys that were held before the focus came make no chord
                return KeyVerdict.SWALLOW if self._tainted else chord.verdict
        return KeyVerdict.FORWARD

    def _prepare(self, keymap: Keymap, layout: int) -> tuple[_Ready, ...]:
        """Return the chords by the codes of a keymap's layout."""
        if not self._wanted:
            return ()
        found = [
            _Ready(_mask(keymap, chord), keymap.codes(chord.symbol, layout), verdict)
            for chord, verdict in self._wanted
        ]
        both = found[0].codes & found[1].codes
        # guard: a key that would be two chords is neither
        if found[0].mask == found[1].mask and both:
            # A key that would be both is neither: nothing is guessed.
            found = [_Ready(one.mask, one.codes - both, one.verdict) for one in found]
        return tuple(one for one in found if one.mask and one.codes)

    def _tells_modifiers(self, keymap: Keymap) -> bool:
        """Return whether a keymap has the chords' modifiers, as any keyboard's has."""
        return all(_mask(keymap, chord) for chord, _ in self._wanted)

    def _missing(self, keymap: Keymap) -> str:
        """Return why a keymap cannot have the chords, or ""."""
        if not self._wanted:
            return "no key combinations are set yet"
        for chord, verdict in self._wanted:
            if not _mask(keymap, chord):
                needed = " and ".join(sorted(chord.modifiers))
                return f"no key combination for {verdict.value}: the keymap does not distinguish {needed}"
            for layout in range(max(keymap.layouts, 1)):
                ready = self._prepare(keymap, layout)
                if verdict not in {one.verdict for one in ready}:
                    return f"no key combination for {verdict.value}: layout {layout + 1} has no key that produces only {chord.symbol}"
        return ""


def _wanted(chords: ChordPair | None) -> tuple[tuple[Chord, KeyVerdict], ...]:
    if chords is None:
        return ()
    return (chords.copy, KeyVerdict.COPY), (chords.paste, KeyVerdict.PASTE)


# A chord's modifiers are the eight real ones. mutter reports Super as Mod4 and, in a
# higher bit, as the virtual modifier that maps to it; wlroots' virtual keyboards report
# Mod4 alone. Taken as one more modifier, that bit would leave GNOME without chords. A
# virtual modifier that maps to no real one therefore does not change a chord.
def _mask(keymap: Keymap, chord: Chord) -> int:
    """Return the bits of a chord's modifiers; 0 if one has none or two share theirs."""
    mask = 0
    for name in sorted(chord.modifiers):
        bits = keymap.mask(name)
        if not bits or bits & mask:
            return 0
        mask |= bits
    return mask if mask & ~SHIFT else 0
