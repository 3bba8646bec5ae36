"""Explanations of tomllib's errors, with the correction.

The authority, session children and brokerctl run this when they read records.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)\s*$")
_WORD = re.compile(r"[^\s,#\[\]{}=\"']+")
_VALUE = re.compile(r"[^=\n]*=[ \t]*")
_UNCLOSED = ("Unclosed", "Unterminated", 'Expected "')
_SET_TOGETHER = re.compile(r"""(?:=|,|\[)[ \t]*([\w.+-]+)$""")


class SyntaxFinding(NamedTuple):
    """A syntax error: offsets in the piece, and the words."""

    start: int
    end: int
    message: str
    expected: str = ""
    hint: str = ""


def place_of(piece: str, error: str) -> int:
    """Return the offset that tomllib's message names (its end if none)."""
    place = _PLACE.search(error)
    if place is None or place[1] is None:
        return len(piece)
    at = 0
    for _ in range(int(place[1]) - 1):
        at = piece.find("\n", at) + 1
    return min(len(piece), at + int(place[2]) - 1)


def explain(piece: str, error: str, stop: int = -1) -> SyntaxFinding:
    """Explain one statement's error of tomllib, with a correction.

    ``stop`` is where the scanner could not continue, -1 if it could.
    """
    at = place_of(piece, error)
    message = _PLACE.sub("", error)
    rest_empty = not piece[at:].split("\n", 1)[0].split("#", 1)[0].strip()
    if message.startswith("Invalid value"):
        return _invalid_value(piece, at, rest_empty=rest_empty)
    if message.startswith("Expected newline or end of document"):
        return _left_over(piece, at)
    if stop >= 0 and (message.startswith(_UNCLOSED) or "'\\n'" in message):
        return _never_closed(piece, stop)
    if message.startswith("Expected '=' after a key"):
        return _no_equals(piece, at)
    if message.startswith("Invalid statement"):
        return SyntaxFinding(
            at,
            at + 1,
            "unexpected character at the beginning of a statement",
            "key = value, [table] or # comment",
            "use the letters a-z, digits, '-' and '_' in keys",
        )
    if message.startswith("Invalid initial character"):
        return SyntaxFinding(
            at, at + 1, "a key is missing here", "a key or a table's name"
        )
    if message.startswith("Expected ']"):
        closing = "]]" if "]]" in message else "]"
        return SyntaxFinding(
            at, at + 1, f"'{closing}' is missing", f"a closing {closing}"
        )
    if message.startswith("Unescaped '\\'"):
        return SyntaxFinding(
            max(0, at - 2),
            at,
            "unknown escape sequence in a double-quoted string",
            "",
            "write \\\\ for a backslash, or use single quotes",
        )
    return SyntaxFinding(at, at + 1, message or "not valid TOML")


def _invalid_value(piece: str, at: int, *, rest_empty: bool) -> SyntaxFinding:
    """Explain a value that cannot be parsed: missing, unquoted, or misspelt."""
    if rest_empty:
        return SyntaxFinding(at, at + 1, "the value is missing", "a value after '='")
    word = _WORD.match(piece, at)
    if word is None:
        return SyntaxFinding(at, at + 1, "unexpected character in place of a value")
    hint = f'write text in quotes: "{word[0]}"'
    if word[0].lower() in {"true", "yes", "on", "false", "no", "off"}:
        positive = word[0].lower() in {"true", "yes", "on"}
        hint = f"write {'true' if positive else 'false'}, or put text in quotes"
    return SyntaxFinding(at, word.end(), f"'{word[0]}' is not a value", "", hint)


def _left_over(piece: str, at: int) -> SyntaxFinding:
    """Explain text after a value, as of ``768M`` without quotes."""
    word = _WORD.match(piece, at)
    end = word.end() if word else at + 1
    before = _SET_TOGETHER.search(piece, 0, at)
    if before and word:
        # 12x, 768M: the number ends where the letters begin.
        whole = before[1] + word[0]
        hint = f'write text in quotes: "{whole}"'
        if whole.isdigit():
            hint = f"write {whole.lstrip('0') or '0'}"
        return SyntaxFinding(
            before.start(1), end, f"'{whole}' is not a value", "", hint
        )
    return SyntaxFinding(
        at,
        end,
        "unexpected text after the statement",
        "the end of the line",
        "write one 'key = value' on each line, and text with spaces in quotes",
    )


def _never_closed(piece: str, stop: int) -> SyntaxFinding:
    """Explain a string, or a value around it, that is not closed."""
    value = _VALUE.match(piece)
    start = stop if piece[stop : stop + 1] in {'"', "'"} or not value else value.end()
    opening = piece[start : start + 1]
    what = {"[": "array", "{": "inline table"}.get(opening, "string")
    triple = opening * (3 if piece.startswith(opening * 3, start) else 1)
    closing = {"[": "]", "{": "}"}.get(opening, triple)
    if start < stop < len(piece.rstrip()):
        # It continues, but not as it should.
        return SyntaxFinding(
            stop, stop + 1, f"',' or '{closing}' is missing before this"
        )
    end = piece.find("\n", start)
    end = len(piece.rstrip()) if end < 0 else end
    return SyntaxFinding(
        start, end, f"this {what} is not closed", f"a closing {closing}"
    )


def _no_equals(piece: str, at: int) -> SyntaxFinding:
    """Explain a key without '='."""
    hint = ""
    if ":" in piece[at : at + 2]:
        hint = "write 'key = value'"
    return SyntaxFinding(
        at, at + 1, "'=' is missing after the key", "key = value", hint
    )
