"""Problems of a policy file: the place, the cause, the repair.

A ``Problem`` is a value, not an exception: a check reports every problem of
the whole set at once, so nothing here ends at the first one.

The authority, brokerctl and session children, which read such files, report by this.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import NamedTuple

from broker.core.escape import code_of, hidden

_SHOWN_CHARS = 96


class Span(NamedTuple):
    """A piece of a file.  Lines and columns count from 1, columns in characters.

    The end is the first place after the piece.
    """

    line: int
    column: int
    end_line: int
    end_column: int


WHOLE_FILE = Span(1, 1, 1, 1)
"""Where a problem of the file itself (owner, size) is shown."""


class Spot(NamedTuple):
    """The place of something, with the line as it is in the file."""

    file: str
    span: Span = WHOLE_FILE
    line: str = ""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in one file.

    ``message`` names the problem, ``expected`` the accepted values, ``hint``
    what to do; the latter two may be empty.  ``source_line`` is the line as it
    is in the file, unescaped, empty when the problem is the file itself.
    """

    file: str
    span: Span
    message: str
    expected: str = ""
    hint: str = ""
    source_line: str = ""

    @property
    def where(self) -> str:
        """``file:line:column``."""
        return f"{visible(self.file)}:{self.span.line}:{self.span.column}"

    def first_line(self) -> str:
        """Return ``file:line:column: message``, escaped, for editors and logs."""
        return f"{self.where}: {visible(self.message)}"

    def render(self) -> str:
        """Return the text for a user: the line, a caret, expected and hint."""
        lines = [self.first_line()]
        if self.source_line:
            lines += _caret(self.source_line, self.span)
        if self.expected:
            lines.append(f"  expected: {visible(self.expected)}")
        if self.hint:
            lines.append(f"  hint: {visible(self.hint)}")
        return "\n".join(lines)


def visible(text: str) -> str:
    r"""Return the text with every unprintable character written as ``\\x..``."""
    if text.isascii() and text.isprintable():
        return text  # each decision names its rule's file: half of its time
    return "".join(
        code_of(c) if hidden(c) or (c.isspace() and c != " ") else c for c in text
    )


def _caret(source_line: str, span: Span) -> list[str]:
    """Return the line of a problem and carets below it.

    A long line is cut to a window around the place.
    """
    first = max(0, span.column - 1 - _SHOWN_CHARS // 2)
    if len(source_line) <= _SHOWN_CHARS:
        first = 0
    shown = source_line[first : first + _SHOWN_CHARS]
    # Escapes would move the carets away; one character stays one here.
    shown = "".join(c if c.isprintable() else " " if c == "\t" else "·" for c in shown)
    begin = span.column - 1 - first
    end = span.end_column - 1 - first if span.end_line == span.line else len(shown)
    carets = "^" * max(1, _width(shown[begin : max(begin, end)]))
    return [f"  | {shown}", f"  | {' ' * _width(shown[:begin])}{carets}"]


def _width(text: str) -> int:
    """Count the cells of a terminal that a text takes."""
    cells = 0
    for char in text:
        if not unicodedata.combining(char):
            cells += 2 if unicodedata.east_asian_width(char) in "WF" else 1
    return cells
