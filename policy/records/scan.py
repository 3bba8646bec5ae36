"""Cutting a TOML file into statements and finding the places of their values.

The scanner is more lenient than ``tomllib`` and decides nothing: it reports the places
of things, ``document`` takes their meaning from ``tomllib``.

The authority, session children and brokerctl run this when they read records.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field

from policy import limits

Path = tuple[str | int, ...]
"""Where a value is: keys, and indices in arrays."""

# No possessive groups here: Python 3.11 mishandles (?:…)*+ when an alternative
# fails half-way (it does not step back), so '''a''' would not match.
_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\[^\n])*"|'[^'\n]*+')"""
_KEY = re.compile(rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*")
_EQUALS = re.compile(r"[ \t]*=[ \t]*")
_GAP = re.compile(r"(?:[ \t\n]++|#[^\n]*+)*")
_LINE_REST = re.compile(r"[^\n]*+")
_BARE = re.compile(r"""\d{4}-\d\d-\d\d[ ]\d\d:[^\s,\[\]{}#"']*+|[^\s,\[\]{}#"'=]++""")
_SCALARS = {
    '"""': re.compile(r'"""(?:[^"\\]|\\(?s:.)|"{1,2}(?!"))*"{3,5}'),
    "'''": re.compile(r"'''(?:[^']|'{1,2}(?!'))*'{3,5}"),
    '"': re.compile(r'"(?:[^"\\\n]|\\[^\n])*"'),
    "'": re.compile(r"'[^'\n]*+'"),
    "": _BARE,
}
"""How a value that begins so continues; the first that fits is the one."""

_SPANNING = ("[", "{", '"""', "'''")
_HEADER = re.compile(rf"(\[\[?)[ \t]*({_KEY.pattern})[ \t]*\]")
_NEXT_STATEMENT = re.compile(
    rf"\n(?=[ \t]*(?:{_KEY.pattern}[ \t]*=|\[\[?[ \t]*{_KEY.pattern}"
    r"[ \t]*\]\]?[ \t]*(?:#[^\n]*)?(?:\n|\Z)))"
)


class NotUnderstoodError(Exception):
    """The scanner cannot continue at ``offset``; tomllib will say why."""

    def __init__(self, offset: int, *, too_deep: bool = False) -> None:
        super().__init__(offset)
        self.offset = offset
        self.too_deep = too_deep


@dataclass
class Statement:
    """One statement: ``text[start:end]`` with the pieces the scanner found.

    ``header`` is the opening bracket(s) of a table's header, empty for a pair.
    ``values`` holds (path below the key, place of an inner key, place of the
    value) for the value and everything in it.  ``parts`` is the decoded key,
    once tomllib has accepted the statement.
    """

    start: int
    end: int
    header: str = ""
    key: tuple[int, int] | None = None
    values: list[tuple[Path, tuple[int, int] | None, tuple[int, int]]] = field(
        default_factory=list
    )
    failed: NotUnderstoodError | None = None
    parts: tuple[str, ...] = ()


def split(text: str) -> Iterator[Statement]:
    r"""Yield the statements of a text with ``\n`` line ends, in order.

    Each has at least one character; between them are only blanks and comments.
    """
    at = _skip(text, 0)
    while at < len(text):
        statement = _statement(text, at)
        yield statement
        at = _skip(text, statement.end)


def _skip(text: str, at: int) -> int:
    gap = _GAP.match(text, at)
    return gap.end() if gap else at


def _line_end(text: str, at: int) -> int:
    rest = _LINE_REST.match(text, at)
    return rest.end() if rest else at


def _statement(text: str, start: int) -> Statement:
    """Scan the statement that begins at ``start``: its key and end."""
    statement = Statement(start, _line_end(text, start))
    if text[start] == "[":
        head = _HEADER.match(text, start)
        statement.header = head[1] if head else "["
        statement.key = head.span(2) if head else None
        return statement
    key = _KEY.match(text, start)
    equals = _EQUALS.match(text, key.end()) if key else None
    if key is None or equals is None:
        return statement
    statement.key = key.span()
    try:
        end = _Scanner(text, statement).value(equals.end(), (), None, 1)
        statement.end = _line_end(text, end)
    except NotUnderstoodError as failed:
        statement.failed = failed
        # A value that may span lines is lost up to the next line that begins a statement.
        if text.startswith(_SPANNING, equals.end()):
            after = _NEXT_STATEMENT.search(text, equals.end())
            statement.end = after.start() if after else len(text)
    return statement


# A record's positions come from our scanner. tomllib gives the values, our scanner the
# places, and a record is refused when the two disagree. tree-sitter-toml merged
# neighbouring errors into one node, so not every mistake had its line; it stays as an
# oracle in the tests.
class _Scanner:
    """Finds the values of one statement and notes their places in it."""

    def __init__(self, text: str, into: Statement) -> None:
        self._text = text
        self._into = into

    def value(
        self, start: int, path: Path, key: tuple[int, int] | None, depth: int
    ) -> int:
        """Scan the value that begins at ``start``; note it and those in it.

        Return its end.
        """
        if depth > limits.NESTING + 1:
            raise NotUnderstoodError(start, too_deep=True)
        noted = self._into.values
        mine = len(noted)
        noted.append((path, key, (start, start)))
        opening = self._text[start : start + 1]
        if opening == "[":
            end = self._array(start, path, depth)
        elif opening == "{":
            end = self._inline_table(start, path, depth)
        else:
            begins = next(s for s in _SCALARS if self._text.startswith(s, start))
            found = _SCALARS[begins].match(self._text, start)
            if found is None:
                raise NotUnderstoodError(start)
            end = found.end()
        noted[mine] = (path, key, (start, end))
        return end

    def _array(self, start: int, path: Path, depth: int) -> int:
        """Scan an array and the values in it; return its end."""
        at = _skip(self._text, start + 1)
        index = 0
        while self._text[at : at + 1] != "]":
            end = self.value(at, (*path, index), None, depth + 1)
            index += 1
            at = _comma(self._text, _skip(self._text, end), "]")
        return at + 1

    def _inline_table(self, start: int, path: Path, depth: int) -> int:
        """Scan an inline table and the values in it; return its end."""
        at = _skip(self._text, start + 1)
        while self._text[at : at + 1] != "}":
            key = _KEY.match(self._text, at)
            equals = _EQUALS.match(self._text, key.end()) if key else None
            if key is None or equals is None:
                raise NotUnderstoodError(at)
            inner = (*path, *key_parts(key[0], at))
            end = self.value(equals.end(), inner, key.span(), depth + 1)
            at = _comma(self._text, _skip(self._text, end), "}")
        return at + 1


def _comma(text: str, at: int, closing: str) -> int:
    """Skip a comma, or stop at the closing bracket.

    Raises NotUnderstoodError for anything else.
    """
    char = text[at : at + 1]
    if char == ",":
        return _skip(text, at + 1)
    if char != closing:
        raise NotUnderstoodError(at)
    return at


def key_parts(key: str, offset: int) -> tuple[str, ...]:
    """Decode a key as tomllib does, which knows about quotes and escapes.

    Raises NotUnderstoodError at ``offset`` when it is not a key.
    """
    try:
        inner: object = tomllib.loads(f"{key} = 0")
    except (ValueError, RecursionError) as error:
        raise NotUnderstoodError(offset) from error
    parts: list[str] = []
    while isinstance(inner, dict):
        ((part, inner),) = inner.items()
        parts.append(part)
    return tuple(parts)
