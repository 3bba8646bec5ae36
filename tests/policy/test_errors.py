"""How a problem looks to a person."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.errors import Problem, Span, visible
from policy.suggestions import did_you_mean
from policy.tools.linting.finding import problem_json


def test_a_problem_in_full():
    """Place, message, the line with carets, the expected value, the remedy."""
    problem = Problem(
        "demo.toml",
        Span(3, 11, 3, 17),
        '"alow" is not allowed here',
        '"none" or "allow"',
        "did you mean 'allow'?",
        'display = "alow" # x',
    )
    assert problem.render().split("\n") == [
        'demo.toml:3:11: "alow" is not allowed here',
        '  | display = "alow" # x',
        "  |           ^^^^^^",
        '  expected: "none" or "allow"',
        "  hint: did you mean 'allow'?",
    ]


@pytest.mark.parametrize(
    ("line", "span", "carets"),
    [
        pytest.param("a = 1", Span(1, 5, 1, 6), "    ^", id="one character"),
        pytest.param("a =", Span(1, 4, 1, 4), "   ^", id="behind the line"),
        pytest.param("\ta = 1", Span(1, 6, 1, 7), "     ^", id="a tab is one cell"),
        pytest.param("数数 = 1", Span(1, 6, 1, 7), "       ^", id="wide characters"),
        pytest.param(
            "e\u0301 = 1", Span(1, 6, 1, 7), "    ^", id="combining characters"
        ),
        pytest.param("a = [", Span(1, 5, 4, 2), "    ^", id="goes on below"),
        pytest.param("a\x1b = 1", Span(1, 6, 1, 7), "     ^", id="hidden characters"),
    ],
)
def test_carets_stand_below_the_place(line, span, carets):
    """Counted in cells of the terminal, not in characters."""
    assert (
        Problem("f", span, "m", source_line=line).render().split("\n")[2]
        == f"  | {carets}"
    )


def test_a_long_line_is_shown_around_the_place():
    """A window of the line; the carets fit to it."""
    line = "x" * 2000 + "HERE" + "y" * 2000
    _, shown, carets = (
        Problem("f", Span(1, 2001, 1, 2005), "m", "", "", line).render().split("\n")
    )
    assert len(shown) == len("  | ") + 96
    assert shown[carets.index("^") : carets.rindex("^") + 1] == "HERE"


def test_a_problem_of_the_file_shows_no_line():
    """There is nothing to point at."""
    assert Problem("f", Span(1, 1, 1, 1), "m").render() == "f:1:1: m"


@given(
    st.text(max_size=50), st.text(max_size=200), st.integers(1, 210), st.integers(0, 9)
)
def test_nothing_from_a_file_drives_the_terminal(name, line, column, size):
    """Whatever a file contains, the rendering has printable characters only."""
    line = line.replace("\n", "")
    problem = Problem(name, Span(1, column, 1, column + size), line, line, line, line)
    assert all(part.isprintable() for part in problem.render().split("\n"))
    assert problem.first_line().isprintable()


def test_json_has_everything():
    """A script gets the parts apart, unescaped."""
    problem = Problem("f", Span(1, 2, 3, 4), "m\x1b", "e", "h", "l")
    assert problem_json(problem) == {
        "file": "f",
        "line": 1,
        "column": 2,
        "end_line": 3,
        "end_column": 4,
        "message": "m\x1b",
        "expected": "e",
        "hint": "h",
        "source_line": "l",
    }


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("colr", "did you mean 'colour'?"),
        ("COLOUR", "did you mean 'colour'?"),
        ("zzz", ""),
        (7, ""),
        ("c" * 100000, ""),
    ],
)
def test_did_you_mean(word, hint):
    """Only near words, and never slow."""
    assert did_you_mean(word, ["colour", "name"]) == hint


def test_visible():
    """Escapes in three sizes."""
    assert visible("a\x1b\u202e\U000e0001ä") == "a\\x1b\\u202e\\U000e0001ä"
