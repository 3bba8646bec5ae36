"""A filter of the escape sequences that a sandbox sends to the user's terminal.

A program on a terminal needs to move the cursor, to colour and to clear.  The
same channel sets the window's title, writes the clipboard (OSC 52), makes the
terminal type answers into whatever reads it (DA, DSR, DECRQSS, title reports),
and on some terminals worse.  So this is a list of what passes; everything else
is dropped, as a terminal drops unknown sequences.

Sans-IO: bytes in, bytes out, any split of the input gives the same output.
Grammar: ECMA-48, and DEC STD 070 for the states; control sequences as in
XTerm's ctlseqs.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

_CONTROLS: Final = frozenset("\a\b\t\n\r\x0e\x0f")
_ESCAPES: Final = frozenset("78=>DEHM")
"""Save and restore the cursor, keypad modes, index, next line, tab, reverse."""
_CHARSETS: Final = "()*+"
_FINALS: Final = frozenset("@ABCDEFGHIJKLMPSTXZ`abdefghlmrsu")
"""Cursor, erase, insert, delete, scroll, margins, SGR, tabs, modes.

Not: ``c`` and ``n`` (answered on the terminal's input), ``t`` (window, title),
``p q x y`` (reset, LEDs, reports), ``i`` (printing).
"""
_MODES: Final = frozenset(
    {1, 5, 6, 7, 12, 25, 47, 1000, 1002, 1004, 1006, 1047, 1048, 1049, 2004}
)
"""Private modes that full-screen programs use: cursor keys, wrap, cursor,
the alternate screen, mouse, focus, bracketed paste."""
_PLAIN_MODES: Final = frozenset({4, 20})
_LONGEST: Final = 128
"""Characters of a sequence; a longer one is dropped."""
_DIGITS: Final = 5
"""Of a number: terminals have spent minutes on a count of 999999999 (REP, ICH, SU)."""
_CSI: Final = re.compile(r"([<=>?]?)([0-9;:]*)([ -/]*)(.)", re.DOTALL)

# guard: no mode of a sandbox stays in the terminal
RESET: Final = (
    b"\x1b[0m\x1b[?1l\x1b>\x1b[?6l\x1b[r\x1b[?7h\x1b[?25h\x1b[4l\x1b[20l\x1b[?5l"
    b"\x1b[?1000l\x1b[?1002l\x1b[?1004l\x1b[?1006l\x1b[?2004l\x1b[?1049l\x1b(B\x0f"
)
"""Undoes what passes and would stay when the program has ended.

Mode 20 sends a line feed after each Return: whatever reads the terminal next would take
it for a second answer.
"""


class TerminalFilter:
    """Filters a program's output to sequences that a terminal may show."""

    def __init__(self, encoding: str = "utf-8") -> None:
        """Filter output for a terminal whose encoding is ``encoding``."""
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._state = self._ground
        self._kept = ""
        self._out: list[str] = []

    def feed(self, untrusted_data: bytes) -> bytes:
        """Return what may be written now; keep the beginning of a sequence back."""
        for char in self._decoder.decode(untrusted_data):
            self._state(char)
        shown, self._out = "".join(self._out), []
        # To a terminal of Latin 1, "ś" in UTF-8 ends in CSI, as one byte.
        # guard: text is encoded as the terminal decodes it
        return shown.encode(self._encoding, "replace")

    def _ground(self, char: str) -> None:
        """Handle a character outside of sequences: pass text, begin a sequence."""
        if char == "\x1b":
            self._state, self._kept = self._escape, ""
        elif char in _CONTROLS or char.isprintable():
            self._out.append(char)
        elif char in "\x90\x98\x9d\x9e\x9f":  # C1 forms of DCS, SOS, OSC, PM, APC
            self._state = self._string
        elif char == "\x9b":  # and of CSI
            self._state, self._kept = self._control, ""
        # All other controls, and characters that turn the text around, go.

    def _escape(self, char: str) -> None:
        """Handle the character after ESC."""
        self._state = self._ground
        if char == "[":
            self._state, self._kept = self._control, ""
        elif char in "PX]^_":
            self._state = self._string
        elif char in _CHARSETS:
            self._state, self._kept = self._charset, char
        elif char in _ESCAPES:
            self._out.append(f"\x1b{char}")
        elif char == "\x1b":
            self._state = self._escape
        elif " " <= char <= "/":
            self._state = self._intermediate
        elif char in _CONTROLS:
            self._out.append(char)

    def _intermediate(self, char: str) -> None:
        """The rest of an escape sequence of which none passes."""
        if not " " <= char <= "/":
            self._state = self._escape if char == "\x1b" else self._ground

    def _charset(self, char: str) -> None:
        self._state = self._escape if char == "\x1b" else self._ground
        if char in "0AB":
            self._out.append(f"\x1b{self._kept}{char}")

    def _control(self, char: str) -> None:
        """Handle a character of a control sequence (CSI)."""
        if char == "\x1b":
            self._state = self._escape
        elif char in "\x18\x1a":  # CAN and SUB end a sequence
            self._state = self._ground
        elif char < " ":
            self._ground(char) if char in _CONTROLS else None
        elif "@" <= char <= "~":
            self._state = self._ground
            if len(self._kept) <= _LONGEST and _passes(self._kept + char):
                self._out.append(f"\x1b[{self._kept}{char}")
        elif len(self._kept) <= _LONGEST:
            self._kept += char

    def _string(self, char: str) -> None:
        """A string for the terminal itself: nothing of it passes."""
        if char == "\x1b":
            self._state = self._string_end
        elif char in "\a\x9c\x18\x1a":
            self._state = self._ground

    def _string_end(self, char: str) -> None:
        if char == "\\":
            self._state = self._ground
        else:  # the string is cut short by another sequence
            self._escape(char)


def _passes(sequence: str) -> bool:
    """Return whether a control sequence is harmless and passes."""
    match = _CSI.fullmatch(sequence)
    if match is None or match[3] or match[4] not in _FINALS:
        return False
    private, numbers, _, final = match.groups()
    # guard: a count that fits on no screen
    if any(len(number) > _DIGITS for number in re.split("[;:]", numbers)):
        return False
    if final in "hl":
        allowed = _MODES if private == "?" else _PLAIN_MODES
        if private not in {"", "?"} or ":" in numbers:
            return False
        return all(n.isdecimal() and int(n) in allowed for n in numbers.split(";"))
    # 'CSI ? J' and 'CSI ? K' erase; 'CSI > m' sets a keyboard's modes.
    return not private or (private == "?" and final in "JK")
