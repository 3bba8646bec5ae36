"""Habits of our texts that cost a reader, counted: pages, docstrings and comments.

A bound is the rate of the day of its last change and five percent.  It is lowered when
a text was improved; a new text that is above it says the thing with a noun and a verb.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HABITS = {
    # "a pipe that" and not "one that"
    "one that": r"\bone (?:that|of)\b",
    # send, receive, store
    "told": r"\b(?:told|tells|said|says|hears|knows)\b",
    # "none exists", "is not one"
    "is none": r"\b(?:is|are) none\b",
    # "if", for what may be so or not
    "where for if": r"\bwhere (?:there (?:is|are) no|it (?:has no|does not|cannot|is not))\b",
}
BOUNDS: dict[str, dict[str, float]] = {
    "docs": {
        "one that": 9.5,
        "told": 16.3,
        "is none": 0.3,
        "where for if": 0.6,
    },
    "policy": {
        "one that": 19.9,
        "told": 19.9,
        "is none": 6.7,
        "where for if": 0.3,
    },
    "broker": {
        "one that": 20.5,
        "told": 19.7,
        "is none": 3.1,
        "where for if": 1.0,
    },
    "shims": {
        "one that": 17.3,
        "told": 24.9,
        "is none": 4.2,
        "where for if": 2.3,
    },
}
"""For each 10,000 words."""
_WORD = re.compile(r"[A-Za-z][\w'-]*")


def rates(text: str) -> dict[str, float]:
    """Return how often each habit is in a text, for each 10,000 words."""
    count = len(_WORD.findall(text))
    return {
        name: 10_000 * len(re.findall(habit, text, re.IGNORECASE)) / count
        for name, habit in HABITS.items()
    }


def prose(source: str) -> Iterator[str]:
    """Yield the docstrings, those of attributes too, and comments of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            value = node.value.value
            yield from [value] if isinstance(value, str) else []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def text_of(place: str) -> str:
    """Return the text of the pages, or the prose of the modules of a folder."""
    if place == "docs":
        pages = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))
        return "\n".join(page.read_text() for page in pages)
    modules = sorted((ROOT / place).rglob("*.py"))
    return "\n".join(part for path in modules for part in prose(path.read_text()))


@pytest.mark.parametrize("place", BOUNDS)
def test_a_habit_is_not_more_frequent_than_it_was(place: str) -> None:
    found = rates(text_of(place))
    above = {name: rate for name, rate in found.items() if rate > BOUNDS[place][name]}
    assert above == {}


def test_prose_is_docstrings_and_comments_alone() -> None:
    source = 'A = "one that"\n"""One that is counted."""\nB = 1  # is none\n'
    assert list(prose(source)) == ["One that is counted.", "# is none"]


def test_each_habit_is_counted() -> None:
    assert rates("one that said where there is no pipe: it is none") == dict.fromkeys(
        HABITS, 10_000 / 11
    )
