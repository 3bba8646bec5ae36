"""A TOML file read so that every key and value knows its place.

``tomllib`` decides what a file means; it knows no places and stops at the
first error.  So a small scanner cuts the file into statements, each is given
to ``tomllib`` alone (an error costs only its own statement), the good ones
together once more (duplicates), and the scanner's places are compared with
``tomllib``'s values: where they disagree the file is refused, not guessed at.

The scanner is more lenient than ``tomllib`` and decides nothing.
"""

from __future__ import annotations

import bisect
import re
import tomllib
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from policy import limits
from policy.errors import Span
from policy.syntax import explain, place_of

Path = tuple[str | int, ...]
"""Where a value is: keys, and indices in arrays."""

Complain = Callable[[Span, str, str, str], None]
"""Takes a problem: span, message, expected, hint."""

# Cc control, Cf format (bidi, zero width), Cs, Co, Zl/Zp: a reader must see
# what the parser sees.  Zs is every space but the usual one.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs"})

# No possessive groups here: Python 3.11 mishandles (?:…)*+ when an alternative
# fails half-way (it does not step back), so '''a''' would not match.
_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\[^\n])*"|'[^'\n]*+')"""
_KEY = re.compile(rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*")
_WORD = re.compile(r"\W*([\w-]+)")
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
"""How a value that begins so goes on; the first that fits is the one."""

_SPANNING = ("[", "{", '"""', "'''")
_HEADER = re.compile(rf"(\[\[?)[ \t]*({_KEY.pattern})[ \t]*\]")
_NEXT_STATEMENT = re.compile(
    rf"\n(?=[ \t]*(?:{_KEY.pattern}[ \t]*=|\[\[?[ \t]*{_KEY.pattern}"
    r"[ \t]*\]\]?[ \t]*(?:#[^\n]*)?(?:\n|\Z)))"
)


@dataclass(frozen=True)
class Document:
    """What stood in a file, and where.

    ``keys`` has the place of each key, ``spans`` that of each value; tables
    made by a header have the header's key as both.
    """

    values: Mapping[str, object]
    keys: Mapping[Path, Span]
    spans: Mapping[Path, Span]
    lost: frozenset[str] = frozenset()
    """First words of lines that were refused: whatever stood there, it would
    mislead to call a key of that name missing."""

    def key(self, path: Path) -> Span:
        """The key's place; for what is missing, the nearest table around it."""
        while path and path not in self.keys:
            path = path[:-1]
        return self.keys.get(path, Span(1, 1, 1, 2))

    def span(self, path: Path) -> Span:
        """The value's place; for what is missing, that of its key or table."""
        return self.spans.get(path) or self.key(path)


class _NotUnderstoodError(Exception):
    """The scanner cannot go on at ``offset``; tomllib will say why."""

    def __init__(self, offset: int, *, too_deep: bool = False) -> None:
        super().__init__(offset)
        self.offset = offset
        self.too_deep = too_deep


@dataclass
class _Statement:
    """One statement: ``text[start:end]`` with the pieces the scanner found."""

    start: int
    end: int
    header: str = ""
    key: tuple[int, int] | None = None
    values: list[tuple[Path, tuple[int, int] | None, tuple[int, int]]] = field(
        default_factory=list
    )
    failed: _NotUnderstoodError | None = None


class _Places:
    """Offsets to lines and columns."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(m.end() for m in re.finditer("\n", text))]

    def span(self, start: int, end: int) -> Span:
        return Span(*self._at(start), *self._at(max(start, end)))

    def _at(self, offset: int) -> tuple[int, int]:
        line = bisect.bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def offset(self, line: int, column: int) -> int:
        return self._starts[line - 1] + column - 1


def read_document(text: str, complain: Complain) -> Document:
    r"""Return all that can be understood of ``text``, complaining about the rest.

    ``text`` has ``\n`` line ends.  A complaint means that the file must not
    be used; what is returned then serves to find its other problems.
    """
    refused: set[int] = set()

    def note(span: Span, message: str, expected: str, hint: str) -> None:
        refused.add(span.line)
        complain(span, message, expected, hint)

    clean = _without_hidden(text, note)
    places = _Places(clean)
    statements = list(_split(clean))
    good = _parse_each(clean, statements, places, note)
    values, good = _parse_together(clean, good, places, note)
    keys, spans = _locate(clean, good, places)
    document = Document(values, keys, spans, _lost(text, refused))
    for path in _disagreement(document):
        complain(
            document.key(path),
            "this way of writing it is not understood here",
            "",
            "write one 'key = value' on a line of its own, below its [table]",
        )
    return document


def _lost(text: str, refused: set[int]) -> frozenset[str]:
    lines = enumerate(text.split("\n"), 1)
    words = (_WORD.match(line) for number, line in lines if number in refused)
    return frozenset(word[1] for word in words if word)


def _without_hidden(text: str, complain: Complain) -> str:
    """Refuse what a reader cannot see, and lines that are too long."""
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if len(line) > limits.LINE_CHARS:
            lines[number - 1] = ""
            complain(
                Span(number, limits.LINE_CHARS + 1, number, len(line) + 1),
                f"the line has {len(line)} characters",
                f"at most {limits.LINE_CHARS}",
                "",
            )
            continue
        hidden = [
            (column, char)
            for column, char in enumerate(line, 1)
            if char not in " \t" and unicodedata.category(char) in _HIDDEN
        ]
        for column, char in hidden:
            complain(
                Span(number, column, number, column + 1),
                f"hidden character U+{ord(char):04X}",
                "characters that a reader can see",
                "remove it",
            )
        if hidden:
            lines[number - 1] = ""
    return "\n".join(lines)


# -- the scanner ---------------------------------------------------------------


def _split(text: str) -> Iterator[_Statement]:
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


def _statement(text: str, start: int) -> _Statement:
    made = _Statement(start, _line_end(text, start))
    if text[start] == "[":
        head = _HEADER.match(text, start)
        made.header = head[1] if head else "["
        made.key = head.span(2) if head else None
        return made
    key = _KEY.match(text, start)
    equals = _EQUALS.match(text, key.end()) if key else None
    if key is None or equals is None:
        return made
    made.key = key.span()
    try:
        end = _Scanner(text, made).value(equals.end(), (), None, 1)
        made.end = _line_end(text, end)
    except _NotUnderstoodError as failed:
        made.failed = failed
        # What may span lines is lost up to the next line that begins something.
        if text.startswith(_SPANNING, equals.end()):
            after = _NEXT_STATEMENT.search(text, equals.end())
            made.end = after.start() if after else len(text)
    return made


class _Scanner:
    """Finds the values of one statement and notes their places in it."""

    def __init__(self, text: str, into: _Statement) -> None:
        self._text = text
        self._into = into

    def value(
        self, start: int, path: Path, key: tuple[int, int] | None, depth: int
    ) -> int:
        """Note the value that begins at ``start`` and those in it; return its end."""
        if depth > limits.NESTING + 1:
            raise _NotUnderstoodError(start, too_deep=True)
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
                raise _NotUnderstoodError(start)
            end = found.end()
        noted[mine] = (path, key, (start, end))
        return end

    def _array(self, start: int, path: Path, depth: int) -> int:
        at = _skip(self._text, start + 1)
        index = 0
        while self._text[at : at + 1] != "]":
            end = self.value(at, (*path, index), None, depth + 1)
            index += 1
            at = _comma(self._text, _skip(self._text, end), "]")
        return at + 1

    def _inline_table(self, start: int, path: Path, depth: int) -> int:
        at = _skip(self._text, start + 1)
        while self._text[at : at + 1] != "}":
            key = _KEY.match(self._text, at)
            equals = _EQUALS.match(self._text, key.end()) if key else None
            if key is None or equals is None:
                raise _NotUnderstoodError(at)
            inner = (*path, *_key_parts(key[0], at))
            end = self.value(equals.end(), inner, key.span(), depth + 1)
            at = _comma(self._text, _skip(self._text, end), "}")
        return at + 1


def _comma(text: str, at: int, closing: str) -> int:
    char = text[at : at + 1]
    if char == ",":
        return _skip(text, at + 1)
    if char != closing:
        raise _NotUnderstoodError(at)
    return at


def _key_parts(key: str, offset: int) -> tuple[str, ...]:
    """Decode a key as tomllib does, which knows about quotes and escapes."""
    try:
        inner: object = tomllib.loads(f"{key} = 0")
    except ValueError as error:
        raise _NotUnderstoodError(offset) from error
    parts: list[str] = []
    while isinstance(inner, dict):
        ((part, inner),) = inner.items()
        parts.append(part)
    return tuple(parts)


# -- tomllib ---------------------------------------------------------------------


def _parse_each(
    text: str, statements: list[_Statement], places: _Places, complain: Complain
) -> list[_Statement]:
    """Return the statements that are valid alone, below valid headers."""
    good: list[_Statement] = []
    lost_table = False
    for statement in statements:
        piece = text[statement.start : statement.end]
        valid = _parse_alone(piece, statement, places, complain)
        if statement.header:
            lost_table = not valid
        # Keys below a broken header belong to no known table: checking them
        # as if they belonged to the table before would only confuse.
        if valid and not lost_table:
            good.append(statement)
    return good


def _parse_alone(
    piece: str, statement: _Statement, places: _Places, complain: Complain
) -> bool:
    if statement.failed and statement.failed.too_deep:
        complain(
            places.span(statement.failed.offset, statement.failed.offset + 1),
            f"brackets are nested deeper than {limits.NESTING}",
            "",
            "records need at most one level",
        )
        return False
    try:
        tomllib.loads(piece)
    except ValueError as error:
        stop = statement.failed.offset - statement.start if statement.failed else -1
        found = explain(piece, str(error), stop)
        complain(
            places.span(statement.start + found.start, statement.start + found.end),
            found.message,
            found.expected,
            found.hint,
        )
        return False
    if statement.failed or statement.key is None:
        complain(
            places.span(statement.start, statement.end),
            "this way of writing it is not understood here",
            "",
            "write one 'key = value' on a line of its own, below its [table]",
        )
        return False
    return True


def _parse_together(
    text: str, good: list[_Statement], places: _Places, complain: Complain
) -> tuple[dict[str, object], list[_Statement]]:
    """Return the values of all statements, without those that clash."""
    good = list(good)
    while True:
        kept = _blank_all_but(text, good)
        try:
            return tomllib.loads(kept), good
        except ValueError as error:
            at = place_of(kept, str(error))
        starts = [statement.start for statement in good]
        index = max(0, bisect.bisect_left(starts, at) - 1)
        clash = good[index]
        assert clash.key is not None
        what = "table" if clash.header else "key"
        complain(
            places.span(*clash.key),
            f"the {what} '{text[slice(*clash.key)]}' is already set above",
            "",
            "keep one of the two",
        )
        last = index + 1
        if clash.header:
            while last < len(good) and not good[last].header:
                last += 1
        del good[index:last]


def _blank_all_but(text: str, good: list[_Statement]) -> str:
    """The text with everything outside these statements made white space."""
    pieces: list[str] = []
    at = 0
    for statement in good:
        pieces.append(re.sub(r"[^\n]", " ", text[at : statement.start]))
        pieces.append(text[statement.start : statement.end])
        at = statement.end
    return "".join(pieces)


# -- places ------------------------------------------------------------------------


def _locate(
    text: str, good: list[_Statement], places: _Places
) -> tuple[dict[Path, Span], dict[Path, Span]]:
    keys: dict[Path, Span] = {}
    spans: dict[Path, Span] = {}
    arrays: dict[Path, int] = {}
    table: Path = ()
    for statement in good:
        assert statement.key is not None
        span = places.span(*statement.key)
        parts = _key_parts(text[slice(*statement.key)], statement.start)
        if statement.header:
            table = _table_path(parts, arrays, new_element=statement.header == "[[")
            _note(keys, spans, table, span, span)
            continue
        for inner, key, value in statement.values:
            key_span = places.span(*key) if key else span
            path = (*table, *parts, *inner)
            _note(keys, spans, path, key_span, places.span(*value))
    return keys, spans


def _table_path(
    parts: tuple[str, ...], arrays: dict[Path, int], *, new_element: bool
) -> Path:
    """The path of a header: inside an array of tables, its last element."""
    path: Path = ()
    for index, part in enumerate(parts, 1):
        path = (*path, part)
        if index == len(parts) and new_element:
            arrays[path] = arrays.get(path, 0) + 1
        if path in arrays:
            path = (*path, arrays[path] - 1)
    return path


def _note(
    keys: dict[Path, Span], spans: dict[Path, Span], path: Path, key: Span, value: Span
) -> None:
    keys[path] = key
    spans[path] = value
    # Tables that a dotted key or a header makes on its way.
    for size in range(len(path) - 1, 0, -1):
        if path[:size] in keys:
            break
        keys[path[:size]] = key
        spans[path[:size]] = key


def _disagreement(document: Document) -> list[Path]:
    """Paths that only one of scanner and tomllib knows."""
    seen: set[Path] = set()
    waiting: list[tuple[Path, object]] = [((), document.values)]
    while waiting:
        path, value = waiting.pop()
        seen.add(path)
        if isinstance(value, Mapping):
            waiting += [((*path, key), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [((*path, index), inner) for index, inner in enumerate(value)]
    seen.discard(())
    return sorted(seen.symmetric_difference(document.keys), key=repr)
