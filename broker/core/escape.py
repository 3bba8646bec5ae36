"""Making text from a sandbox fit to be shown.

Everything that a sandbox sent and a user sees (terminal, log, title) goes
through here: control characters could drive the terminal, bidirectional and
zero-width ones could make a line read as another.

Each process that shows or logs such a text calls it.
"""

from __future__ import annotations

import re
import unicodedata

# Cc control, Cf format (bidi, zero width), Cs surrogates, Co private use,
# Cn unassigned, Zl/Zp line and paragraph separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})

# Default_Ignorable_Code_Point of DerivedCoreProperties.txt (Unicode 15), as far as the
# categories above leave it out, and letters and symbols whose glyph is blank.
_INVISIBLE = frozenset(
    [
        0x034F,  # combining grapheme joiner
        *(0x115F, 0x1160, 0x3164, 0xFFA0),  # Hangul fillers
        *(0x17B4, 0x17B5),  # Khmer vowels that are not written
        *(0x180B, 0x180C, 0x180D, 0x180F),  # Mongolian variation selectors
        *range(0xFE00, 0xFE10),  # variation selectors
        *range(0xE0100, 0xE01F0),  # and their supplement
        *(0x2800, 0x1D159, 0x13441, 0x13442),  # blank: Braille, note head, hieroglyphs
    ]
)


_SPACES = re.compile(r"\s+")


def hidden(char: str) -> bool:
    """Return whether a character is not seen, or changes how others are read."""
    # guard: blank characters are seen
    return unicodedata.category(char) in _HIDDEN or ord(char) in _INVISIBLE


def printable(untrusted_text: str | bytes, limit: int = 400) -> str:
    r"""Return the text with every hidden character written as ``\\x..``.

    ``limit`` is the largest length of the answer in characters, at least 1;
    cut text is replaced by ``…``.  Bytes are read as UTF-8, wrong ones shown as hex.
    """
    if isinstance(untrusted_text, bytes):
        # One character more than fits, so that a cut is seen as one.
        untrusted_text = untrusted_text[: limit * 4 + 4].decode(
            "utf-8", "backslashreplace"
        )
    out: list[str] = []
    size = 0
    for char in untrusted_text:
        out.append(_escape(char))
        size += len(out[-1])
        if size > limit:
            while size > limit - 1:
                size -= len(out.pop())
            out.append("…")
            break
    return "".join(out)


def fit(text: str, limit: int = 120) -> str:
    """Make our text fit for a message: one line, printable, cut."""
    line = _SPACES.sub(" ", text)
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def displayed(text: str) -> str:
    """Remove characters that are not shown from a text of several lines.

    For the last step before a terminal, where part of it was escaped already: a
    backslash stays as it is, and so do newlines and tabs.
    """
    # guard: no error drives the terminal
    return "".join(c if c in "\\\n\t" else _escape(c) for c in text)


def escape_markup(text: str) -> str:
    """Return the text as markup that shows it.

    ``html`` does the same, and has a table of 2,231 entities in memory.
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _escape(char: str) -> str:
    if char == "\\":
        return "\\\\"
    return code_of(char) if hidden(char) else char


def code_of(char: str) -> str:
    r"""Return a character as ``\\x..``, by its number."""
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
