"""Which lines mean something else under Qubes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policy.rules.engine import Engine
from policy.rules.world import World
from policy.tools.files_in_memory import rules_of_map
from policy.tools.qubes import compat
from policy.tools.qubes.differences import ROWS, differences
from tests.policy import strategies

DOCS = Path(__file__).parents[3] / "docs" / "policy-qubes.md"


def _found(text):
    files = {"10-a.policy": text}
    both = rules_of_map(files), rules_of_map(files, compat=True)
    return [(one.row, one.problem.span.line) for one in differences(*both)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a * b c deny\na * b @default allow target=d\n", []),
        ("a * b c allow scheme=https\n", [("keys", 1)]),
        ("a\u00a0* b c deny\n", [("readable", 1)]),
        ("a * b;c c deny\n", [("readable", 1)]),
        ("!compat-4.0\n", [("readable", 1)]),
        ("a * b c alow\n", [("broken", 1)]),
        ("!include 10-a.policy\n", [("depth", 1)]),
        ("a * b c deny\na * @anyvm @default allow target=c\n", [("redirect", 2)]),
        ("a * b @tag:x deny\n* * b @default ask target=c\n", [("redirect", 2)]),
        ("a * b c deny\na * d @default allow target=c\n", []),
        ("a +x b c deny\na +y b @default allow target=c\n", []),
        ("a * b @default allow target=c\na * b c deny\n", []),
        ("a * b @dispvm:t deny\na * b @anyvm ask\n", [("offered", 2)]),
        ("a * b @dispvm:t deny\na * b c ask\n", []),
    ],
)
def test_lines(text, found):
    """The row and the line."""
    assert _found(text) == found


def test_the_table_of_the_docs_is_this_one():
    """Each row, in order, in the words of --compat."""
    # The page's first table; a later one has the rows of 'policy import qubes'.
    table = DOCS.read_text().partition("\n## ")[0]
    rows = re.findall(r"^\| `([a-z]+)` \|", table, re.MULTILINE)
    assert rows == list(ROWS)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(
    strategies.policies(plain=True),
    strategies.worlds(),
    st.lists(strategies.plain_calls, min_size=1, max_size=8),
)
def test_where_no_line_differs_the_answers_are_the_same(text, world, calls):
    """Other than the rows that depend on the call or on the world alone."""
    rules = rules_of_map({"10-a.policy": text})
    if differences(rules, rules_of_map({"10-a.policy": text}, compat=True)):
        return
    engine = Engine(rules)
    full = World(
        {**world.domains, **{f"uuid:{d.uuid}": d for d in world.domains.values()}}
    )
    for call in calls:
        ours, theirs = engine.answer(call, world), compat.answer(rules, call, full)
        itself = call.source in {theirs.target, *theirs.targets} | {
            world.name_of(theirs.target or "")
        }
        redirect = theirs.rule is not None and theirs.rule.redirect is not None
        template = world.template(call.source) or "@dispvm:"
        gone = not world.is_template(template.removeprefix("@dispvm:"))
        if theirs.verdict == "error" or itself or redirect or gone:
            continue
        assert ours.verdict == theirs.verdict, (text, call, ours.reason, theirs.reason)
        assert set(ours.targets) == {world.name_of(name) for name in theirs.targets}
