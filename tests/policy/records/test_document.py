"""Places of keys and values: where tomllib and an outside parser see them too."""

from __future__ import annotations

import string
import tomllib
from collections.abc import Mapping

import pytest
import tree_sitter
import tree_sitter_toml
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from policy import limits
from policy.errors import Span
from policy.records.document import Document, read_document
from policy.records.scan import NotUnderstoodError, split

_OUTSIDE = tree_sitter.Parser(tree_sitter.Language(tree_sitter_toml.language()))

# How fast a busy machine generates examples is not tested here.
_CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _read(text: str) -> tuple[Document, list[str]]:
    found: list[str] = []

    def complain(span: Span, message: str, expected: str, hint: str) -> None:
        found.append(f"{span.line}:{span.column}: {message}")

    return read_document(text, complain), found


def _slice(text: str, span: Span) -> str:
    lines = text.split("\n")[span.line - 1 : span.end_line]
    if len(lines) == 1:
        return lines[0][span.column - 1 : span.end_column - 1]
    lines[0] = lines[0][span.column - 1 :]
    lines[-1] = lines[-1][: span.end_column - 1]
    return "\n".join(lines)


def _leaves(value, path=()):
    """Every value that a file writes out: scalars, arrays, not tables."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
        return
    yield path, value
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*path, index))


def _written_out(path, document) -> bool:
    """Arrays of tables are nowhere a value."""
    return document.spans[path] != document.keys[path]


# -- valid TOML of every shape --------------------------------------------------

_bare = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=4)
_basic = st.text("ab\\\"#=[]{}.'\né\t", max_size=6).map(
    lambda text: (
        '"'
        + text.replace("\\", "\\\\")
        .replace('"', '\\"')
        .replace("\n", "\\n")
        .replace("\t", "\\t")
        + '"'
    )
)
_literal = st.text('ab\\"#=[]{}. ', max_size=6).map(lambda text: f"'{text}'")
_long_basic = st.text("ab#=[]\n' ", max_size=8).map(lambda text: f'"""{text}"""')
_quotes = st.sampled_from(
    ['"""a""b"""', '"""a\\"""""', '""""a"""""', "'''a''b'''", "''''a'''''", "''", '""']
)
_long_literal = st.text('ab#=[]\n" \\', max_size=8).map(lambda text: f"'''{text}'''")
_key_part = st.one_of(_bare, _bare, _basic, _literal)
_space = st.sampled_from(["", " ", "\t", "  "])
_key = st.lists(_key_part, min_size=1, max_size=3).map(".".join)
_plain = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.sampled_from(
        [
            "true",
            "false",
            "0x1F",
            "1_000",
            "-1e9",
            "inf",
            "nan",
            "1979-05-27",
            "07:32:00",
            "1979-05-27T07:32:00.5-07:00",
            "1979-05-27 07:32:00",
        ]
    ),
    _basic,
    _literal,
    _long_basic,
    _long_literal,
    _quotes,
)
_break = st.sampled_from(["", " ", "\n", " # ]\n", "\n\n\t"])


@st.composite
def _array(draw, inner):
    items = draw(st.lists(inner, max_size=3))
    pieces = [draw(_break) + item + draw(_break) for item in items]
    tail = "," if items and draw(st.booleans()) else ""
    return "[" + ",".join(pieces) + tail + draw(_break) + "]"


@st.composite
def _inline(draw, inner):
    pairs = draw(st.lists(st.tuples(_key, inner), max_size=3))
    body = ", ".join(f"{key}{draw(_space)}={draw(_space)}{v}" for key, v in pairs)
    return "{ " + body + " }"


_value = st.recursive(_plain, lambda v: st.one_of(_array(v), _inline(v)), max_leaves=6)


@st.composite
def _toml(draw):
    lines = []
    for _ in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from(["pair", "pair", "pair", "table", "array", "note"]))
        if kind == "pair":
            line = f"{draw(_key)}{draw(_space)}={draw(_space)}{draw(_value)}"
        elif kind == "note":
            line = "# [x] = 'y"
        else:
            opening, closing = ("[", "]") if kind == "table" else ("[[", "]]")
            line = f"{opening}{draw(_space)}{draw(_key)}{draw(_space)}{closing}"
        lines.append(draw(_space) + line + draw(st.sampled_from(["", " ", " # n"])))
    return "\n".join(lines) + draw(st.sampled_from(["", "\n"]))


@settings(_CALM, max_examples=300)
@given(_toml())
@example("[[a]]\nb=1\n[[a]]\n[a.c]\nd=2\n[[a.e]]\nf=[{g=1},{g=2}]\n")
@example("a.b.c = 1\na.b.d = 2\n[x.y]\n[x]\nz = 3\n")
@example("a = [1979-05-27 07:32:00, 07:32:00]\n")
def test_places_are_where_tomllib_sees_the_values(text):
    """Each place, cut out and read alone, is the value that tomllib read there."""
    try:
        expected = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        assume(False)
    document, found = _read(text)
    assert found == []
    assert repr(document.values) == repr(expected)
    for path, value in _leaves(expected):
        if _written_out(path, document):
            alone = tomllib.loads(f"v = {_slice(text, document.spans[path])}")
            assert repr(alone["v"]) == repr(value)
        if isinstance(path[-1], str):
            key = tomllib.loads(f"{_slice(text, document.keys[path])} = 0")
            while isinstance(key, dict):
                ((last, key),) = key.items()
            assert last == path[-1]


@settings(_CALM, max_examples=200)
@given(_toml())
def test_places_are_where_an_outside_parser_sees_them(text):
    """tree-sitter's grammar agrees on the line and byte of keys and values."""
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        assume(False)
    tree = _OUTSIDE.parse(text.encode())
    assume(not tree.root_node.has_error)
    outside = set()
    waiting = [tree.root_node]
    while waiting:
        node = waiting.pop()
        waiting += node.children
        if node.type == "pair":
            key, _, value = (c for c in node.children if c.type != "comment")
            outside.add((key.start_point, value.start_point, value.end_point))
    document, _ = _read(text)
    lines = text.split("\n")

    def point(line: int, column: int) -> tuple[int, int]:
        return line - 1, len(lines[line - 1][: column - 1].encode())

    ours = {
        (
            point(*key[:2]),
            point(*document.spans[path][:2]),
            point(*document.spans[path][2:]),
        )
        for path, key in document.keys.items()
        if isinstance(path[-1], str) and document.spans[path] != key
    }
    assert ours == {tuple(map(tuple, triple)) for triple in outside}


@settings(_CALM, max_examples=300)
@given(st.one_of(st.text(max_size=200), st.text("ab=[]{}\"'\n#., \\\t01", max_size=80)))
@example('a = """\n' * 3)
@example("a = [" * 30)
@example("[[[[")
@example("a = {b = {c = [")
def test_any_text_gives_a_document_or_problems(text):
    """What tomllib refuses is refused here, and nothing else is raised."""
    _, found = _read(text)
    try:
        tomllib.loads(text)
    except ValueError:
        assert found


@settings(_CALM, max_examples=100)
@given(_toml(), st.data())
def test_damage_is_reported_in_its_place(text, data):
    """A broken line costs itself; the statement before it is still known."""
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        assume(False)
    first = "first = 1\n"
    document, found = _read(first + "broken =\n" + text)
    assert found[0] == "2:9: the value is missing"
    assert document.values["first"] == 1


# -- limits -----------------------------------------------------------------------


def test_nesting_at_the_limit_and_beyond():
    """N brackets are read, N + 1 are refused before tomllib recurses."""
    deep = limits.NESTING
    assert _read(f"a = {'[' * deep}1{']' * deep}")[1] == []
    _, found = _read(f"a = {'[' * (deep + 1)}1{']' * (deep + 1)}")
    assert found == [f"1:{5 + deep + 1}: brackets are nested deeper than {deep}"]
    _, found = _read("a = " + "[" * 60000)
    assert "1:4097: the line has 60004 characters" in found


def test_nesting_over_lines_never_recurses():
    """Brackets on separate lines are counted all the same."""
    _, found = _read("a = [\n" + "[\n" * 20000)
    assert f"brackets are nested deeper than {limits.NESTING}" in found[0]


def test_line_length_at_the_limit_and_beyond():
    """A line of N characters is read, one of N + 1 is refused."""
    fill = limits.LINE_CHARS - len("a = ''")
    assert _read(f"a = '{'x' * fill}'")[1] == []
    _, found = _read(f"a = '{'x' * (fill + 1)}'")
    assert found == [f"1:{limits.LINE_CHARS + 1}: the line has {fill + 7} characters"]


def test_numbers_too_long_for_python_are_refused():
    """The line limit comes before int()'s own, which raises another error."""
    assert _read("a = " + "9" * (limits.LINE_CHARS - 4))[1] == []
    assert _read("a = " + "9" * 5000)[1] != []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a." * 2000 + "a = 1\n", id="dotted key"),
        pytest.param("[" + "a." * 2000 + "a]\n", id="header"),
        pytest.param(("[" + "a." * 1000 + "a]\n") * 20, id="headers"),
        pytest.param("x = '''\n" * 8000, id="strings that never end"),
        pytest.param("x = [\n" * 10000, id="arrays that never end"),
        pytest.param("x\n" * 32000, id="words"),
        pytest.param("a = 1\n" * 10000, id="the same key"),
        pytest.param('a = "' + "\\" * 4000, id="backslashes"),
        pytest.param('"' * 4000 + "\n" + "'" * 4000, id="quotes"),
        pytest.param("[[a]]\n" * 10000, id="arrays of tables"),
    ],
)
@pytest.mark.timeout(20)
def test_hostile_files_take_bounded_time(text):
    """A full-size file of one awkward thing ends in seconds, without recursion."""
    _read(text[: limits.FILE_BYTES])


# -- keys that exclude each other ---------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = 1\na = 2\n", "2:1: the key 'a' is already defined above"),
        ("a = 1\n[a]\nb = 1\n", "2:2: the table 'a' is already defined above"),
        ("a.b = 1\na = 2\n", "2:1: the key 'a' is already defined above"),
        ("[a]\n[b]\n[a]\nc = 1\n", "3:2: the table 'a' is already defined above"),
        ("a = {}\na.b = 1\n", "2:1: the key 'a.b' is already defined above"),
        ("[[a]]\n[a]\n", "2:2: the table 'a' is already defined above"),
        ('a = 1\n"a" = 2\n', "2:1: the key '\"a\"' is already defined above"),
        ("[a]\nb.c = 1\n[a.b]\n", "3:2: the table 'a.b' is already defined above"),
    ],
)
def test_clashes_are_reported_at_the_second_key(text, problem):
    """However the two are written; the first stays."""
    document, found = _read(text)
    assert found == [problem]
    assert repr(document.values) != "{}"


def test_clashes_at_the_limit_and_beyond():
    """Unlike ones need a reading each; after N of them the file is given up."""

    def clashing(count: int) -> str:
        keys = "".join(f"k{number} = 1\n" for number in range(count))
        return keys + "".join(f"[k{number}.x]\n" for number in range(count))

    document, found = _read(clashing(limits.CLASHES - 1))
    assert len(found) == limits.CLASHES - 1
    assert len(document.values) == limits.CLASHES - 1
    document, found = _read(clashing(limits.CLASHES + 1))
    assert len(found) == limits.CLASHES
    assert document.values == {}


# -- the guard between scanner and tomllib --------------------------------------------


def test_what_only_tomllib_understands_is_refused(monkeypatch):
    """A scanner that gives up where tomllib does not: a problem, not a guess."""

    def give_up(text):
        for statement in split(text):
            statement.failed = NotUnderstoodError(statement.start)
            yield statement

    monkeypatch.setattr("policy.records.document.split", give_up)
    assert _read("a = 1\n")[1] == ["1:1: records do not support this TOML syntax"]


def test_values_without_a_place_are_refused(monkeypatch):
    """A scanner that misses a value: the file is not used."""

    def forget(text):
        for statement in split(text):
            del statement.values[-1]
            yield statement

    monkeypatch.setattr("policy.records.document.split", forget)
    assert _read("a = [1]\n")[1] == ["1:1: records do not support this TOML syntax"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = True", "1:5: 'True' is not a value"),
        ("a = off", "1:5: 'off' is not a value"),
        ("a = 007", "1:5: '007' is not a value"),
        ("a = { b }", "1:9: '=' is missing after the key"),
        ("a = { b = 1", "1:5: this inline table is not closed"),
        ("a = [1 2]", "1:8: ',' or ']' is missing before this"),
        ("a = [\n1\n2\n]", "3:1: ',' or ']' is missing before this"),
        ("a = { b = 1 c = 2 }", "1:13: ',' or '}' is missing before this"),
        ("a = 'x", "1:5: this string is not closed"),
        ('a = ["x', "1:6: this string is not closed"),
        ("[a", "1:3: ']' is missing"),
        ("[[a]", "1:4: ']]' is missing"),
        ("[a] b", "1:5: unexpected text after the statement"),
        ("[]", "1:2: a key is missing here"),
        ("a = \n", "1:5: the value is missing"),
        ("a =# c", "1:4: the value is missing"),
        ("a: 1", "1:2: '=' is missing after the key"),
        ("ä = 1", "1:1: unexpected character at the beginning of a statement"),
        ("a = 'x' 'y'", "1:9: unexpected text after the statement"),
        ("a\u200b = 1", "1:2: hidden character U+200B"),
        ("# \u202e", "1:3: hidden character U+202E"),
        ("a = 'x\u3164'", "1:7: hidden character U+3164"),
        ("# \u034f", "1:3: hidden character U+034F"),
        ("# \u2003", "1:3: hidden character U+2003"),
    ],
)
def test_syntax_errors(text, problem):
    """The first place that is wrong, in words that need no knowledge of TOML."""
    assert _read(text)[1] == [problem]
