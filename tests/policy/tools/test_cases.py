"""Expectations: read, tried, counted."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from functools import partial

import pytest

from policy.rules.engine import Engine
from policy.rules.world import Domain, World
from policy.tools.cases import covered, junit, parse_cases, run_cases, tap
from policy.tools.files_in_memory import rules_of_map

_WORLD = World({"work": Domain("work"), "vault": Domain("vault"), "web": Domain("web")})
_RULES = rules_of_map(
    {
        "10-a.policy": "a * work vault allow scheme=https\na * * vault ask\nb * * * deny\n"
    }
)


def _run(text):
    cases, problems = parse_cases("x.policytest", text.encode())
    assert problems == []
    return run_cases(cases, partial(Engine(_RULES).answer, world=_WORLD))


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("a work vault scheme=https -> allow", ()),
        ("a+x work vault scheme=https -> allow target=vault rule=10-a.policy:1", ()),
        ("a work vault -> ask targets=vault rule=10-a.policy:2", ()),
        ("a work vault -> allow", ("ask, not allow",)),
        ("a web vault -> ask targets=vault,web", ("targets=vault, not vault,web",)),
        (
            "a work web -> deny rule=10-a.policy:3",
            ("rule=no rule matches, not 10-a.policy:3",),
        ),
        ("b work web size=10 -> deny rule=10-a.policy:3", ()),
    ],
)
def test_a_case(line, wrong):
    """The line, and the difference."""
    (result,) = _run(f"# words\n\n  {line}\n")
    assert result.wrong == wrong
    assert result.case.line == 3


@pytest.mark.parametrize(
    ("line", "column", "message"),
    [
        ("a work vault", 1, "not an expectation"),
        ("a work -> allow", 1, "not an expectation"),
        ("a work vault ->", 1, "not an expectation"),
        ("a work vault -> alow", 17, "not a decision"),
        ("a work vault mim=x -> allow", 14, "is not allowed here"),
        ("a work vault -> allow targt=x", 23, "is not allowed here"),
        ("a work vault size=ten -> allow", 14, "number of bytes"),
    ],
)
def test_malformed_cases(line, column, message):
    """Place and reason."""
    cases, (problem,) = parse_cases("x.policytest", line.encode())
    assert cases == []
    assert problem.span.column == column
    assert message in problem.message


def test_coverage_tap_and_junit():
    """Rules that decided nothing are named; both forms say the same."""
    results = _run("a work vault scheme=https -> allow\na work vault -> deny\n")
    missed, share = covered(results, _RULES.rules)
    assert [rule.line for rule in missed] == [3]
    assert round(share, 2) == 0.67
    lines = tap(results).split("\n")
    assert lines[1] == "1..2"
    assert lines[2].startswith("ok 1 - x.policytest:1:")
    assert lines[3].startswith("not ok 2 - ")
    suite = ET.fromstring(junit(results))
    assert (suite.get("tests"), suite.get("failures"), len(suite)) == ("2", "1", 2)
