"""A TOML file read so that every key and value knows its place.

``tomllib`` decides what a file means; it knows no places and stops at the
first error.  So a small scanner cuts the file into statements, each is given
to ``tomllib`` alone (an error costs only its statement), the good ones
together once more (duplicates), and the scanner's places are compared with
``tomllib``'s values: where they disagree the file is refused, not guessed at.

The authority, session children and brokerctl run this when they read records.
"""

from __future__ import annotations

import bisect
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from broker.core.escape import hidden
from policy import limits
from policy.errors import Span
from policy.records.scan import Path, Statement, key_parts, split

Complain = Callable[[Span, str, str, str], None]
"""Takes a problem: span, message, expected, hint."""

_WORD = re.compile(r"\W*([\w-]+)")


@dataclass(frozen=True)
class Document:
    """Values of a file, and their places.

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
        """The key's place; for a missing key, the nearest table around it."""
        while path and path not in self.keys:
            path = path[:-1]
        return self.keys.get(path, Span(1, 1, 1, 2))

    def span(self, path: Path) -> Span:
        """The value's place; for a missing value, that of its key or table."""
        return self.spans.get(path) or self.key(path)


class _Places:
    """Offsets to lines and columns."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(m.end() for m in re.finditer("\n", text))]

    def span(self, start: int, end: int) -> Span:
        return Span(*self._at(start), *self._at(max(start, end)))

    def _at(self, offset: int) -> tuple[int, int]:
        line = bisect.bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1


def read_document(text: str, complain: Complain) -> Document:
    r"""Parse a TOML file; return its values, and the place of each key and value.

    For records, services and settings.  ``text`` has ``\n`` line ends.  Each problem is
    passed to ``complain``: the file must not be used then, and the returned document
    serves to find further problems.
    """
    refused: set[int] = set()

    def note(span: Span, message: str, expected: str, hint: str) -> None:
        refused.add(span.line)
        complain(span, message, expected, hint)

    clean = _without_hidden(text, note)
    places = _Places(clean)
    statements = list(split(clean))
    good = _parse_each(clean, statements, places, note)
    values, good = _parse_together(clean, good, places, note)
    keys, spans = _locate(good, places)
    document = Document(values, keys, spans, _lost(text, refused))
    for path in _disagreement(document):
        complain(
            document.key(path),
            "records do not support this TOML syntax",
            "",
            "write each 'key = value' on a separate line, below its [table]",
        )
    return document


def _lost(text: str, refused: set[int]) -> frozenset[str]:
    lines = enumerate(text.split("\n"), 1)
    words = (_WORD.match(line) for number, line in lines if number in refused)
    return frozenset(word[1] for word in words if word)


def _without_hidden(text: str, complain: Complain) -> str:
    """Return text without hidden characters and too long lines; complain about them."""
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
        # A reader must see what the parser sees: a space is the usual one, too.
        # guard: no character of a record is hidden
        unseen = [
            (column, char)
            for column, char in enumerate(line, 1)
            if char not in " \t" and (char.isspace() or hidden(char))
        ]
        for column, char in unseen:
            complain(
                Span(number, column, number, column + 1),
                f"hidden character U+{ord(char):04X}",
                "visible characters",
                "remove it",
            )
        if unseen:
            lines[number - 1] = ""
    return "\n".join(lines)


# -- tomllib ---------------------------------------------------------------------


def _parse_each(
    text: str, statements: list[Statement], places: _Places, complain: Complain
) -> list[Statement]:
    """Return the statements that are valid alone, below valid headers.

    Complain of others.
    """
    good: list[Statement] = []
    lost_table = False
    for statement in statements:
        piece = text[statement.start : statement.end]
        valid = _parse_alone(piece, statement, places, complain)
        if valid and statement.key is not None:
            key = text[slice(*statement.key)]
            statement.parts = key_parts(key, statement.start)
        if statement.header:
            lost_table = not valid
        # Keys below a broken header belong to no known table: checking them
        # as if they belonged to the table before would only confuse.
        if valid and not lost_table:
            good.append(statement)
    return good


def _parse_alone(
    piece: str, statement: Statement, places: _Places, complain: Complain
) -> bool:
    """Parse one statement alone; complain and return False if it is not valid."""
    if statement.failed and statement.failed.too_deep:
        complain(
            places.span(statement.failed.offset, statement.failed.offset + 1),
            f"brackets are nested deeper than {limits.NESTING}",
            "",
            "use at most one level of brackets",
        )
        return False
    try:
        tomllib.loads(piece)
    except (ValueError, RecursionError) as error:
        # Late, here and below: most files have no mistake to be explained.
        from policy.records.syntax import explain

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
            "records do not support this TOML syntax",
            "",
            "write each 'key = value' on a separate line, below its [table]",
        )
        return False
    return True


def _without_twins(
    text: str, good: list[Statement], places: _Places, complain: Complain
) -> list[Statement]:
    """Return the statements without those that set the same key again.

    Complain of these.

    tomllib would find them too, but only one in each reading of the file.
    """
    kept: list[Statement] = []
    seen: dict[tuple[str, Path], Statement] = {}
    skipping = False
    for path, statement in _with_paths(good):
        if skipping and not statement.header:
            continue
        before = seen.setdefault(("[" * bool(statement.header), path), statement)
        skipping = statement.header == "[" and before is not statement
        if before is statement:
            kept.append(statement)
        else:
            _complain_twin(text, statement, before, places, complain)
    return kept


def _complain_twin(
    text: str,
    statement: Statement,
    before: Statement | None,
    places: _Places,
    complain: Complain,
) -> None:
    """Complain that a statement sets a key or table that is set above."""
    assert statement.key is not None
    what = "table" if statement.header else "key"
    hint = "remove one of the two"
    if before is not None:
        hint += f"; the other is on line {places.span(before.start, before.end).line}"
    complain(
        places.span(*statement.key),
        f"the {what} '{text[slice(*statement.key)]}' is already defined above",
        "",
        hint,
    )


def _parse_together(
    text: str, good: list[Statement], places: _Places, complain: Complain
) -> tuple[dict[str, object], list[Statement]]:
    """Parse all statements together; return their values, and those without a clash."""
    good = _without_twins(text, good, places, complain)
    for _ in range(limits.CLASHES):
        kept = _blank_all_but(text, good)
        try:
            return tomllib.loads(kept), good
        except (ValueError, RecursionError) as error:
            from policy.records.syntax import place_of

            at = place_of(kept, str(error))
        starts = [statement.start for statement in good]
        index = max(0, bisect.bisect_left(starts, at) - 1)
        clash = good[index]
        _complain_twin(text, clash, None, places, complain)
        last = index + 1
        if clash.header:
            while last < len(good) and not good[last].header:
                last += 1
        del good[index:last]
    return {}, []  # complained about often enough


def _blank_all_but(text: str, good: list[Statement]) -> str:
    """Return the text with everything outside these statements made white space."""
    pieces: list[str] = []
    at = 0
    for statement in good:
        pieces.append(re.sub(r"[^\n]", " ", text[at : statement.start]))
        pieces.append(text[statement.start : statement.end])
        at = statement.end
    return "".join(pieces)


# -- places ------------------------------------------------------------------------


def _locate(
    good: list[Statement], places: _Places
) -> tuple[dict[Path, Span], dict[Path, Span]]:
    """Return the places of all keys and of all values, by path."""
    keys: dict[Path, Span] = {}
    spans: dict[Path, Span] = {}
    for path, statement in _with_paths(good):
        assert statement.key is not None
        span = places.span(*statement.key)
        if statement.header:
            _note(keys, spans, path, span, span)
        for inner, key, value in statement.values:
            key_span = places.span(*key) if key else span
            _note(keys, spans, (*path, *inner), key_span, places.span(*value))
    return keys, spans


def _with_paths(good: list[Statement]) -> Iterator[tuple[Path, Statement]]:
    """Yield each statement with the path of its key or table."""
    arrays: dict[Path, int] = {}
    table: Path = ()
    for statement in good:
        if statement.header:
            new_element = statement.header == "[["
            table = _table_path(statement.parts, arrays, new_element=new_element)
            yield table, statement
        else:
            yield (*table, *statement.parts), statement


def _table_path(
    parts: tuple[str, ...], arrays: dict[Path, int], *, new_element: bool
) -> Path:
    """Return the path of a table header.

    A name of an array of tables is followed by the index of its last element.
    """
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
    """Note the places of a key, its value, and the tables made on its way."""
    keys[path] = key
    spans[path] = value
    # Tables that a dotted key or a header makes on its way.
    for size in range(len(path) - 1, 0, -1):
        if path[:size] in keys:
            break
        keys[path[:size]] = key
        spans[path[:size]] = key


def _disagreement(document: Document) -> list[Path]:
    """Return the paths that only one of scanner and tomllib knows."""
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
