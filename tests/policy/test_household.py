"""The example that is shipped: checked, linted, tried, and shown in the docs."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

from policy.records.loader import load_records
from policy.rules.conditions import KEYS
from policy.rules.engine import Engine
from policy.rules.grammar import QUBES_KEYS
from policy.rules.rulefiles import load_rules
from policy.rules.world import world_of
from policy.tools.cases import covered, parse_cases, run_cases
from policy.tools.linting.lint import lint
from policy.tools.linting.lint_records import lint_records
from policy.tools.qubes.world_json import world_from_json

ROOT = Path(__file__).parents[2]
DATA = ROOT / "broker" / "data" / "policy.d"
DOCS = (ROOT / "docs" / "policy.md").read_text()


def test_the_household_decides_as_it_says():
    """Every expectation holds, every rule is tried, lint finds nothing."""
    rules = load_rules([DATA], check_owner=False)
    assert rules.problems == ()
    world = world_from_json(json.loads((DATA / "household.json").read_text()))
    cases, problems = parse_cases("x", (DATA / "90-household.policytest").read_bytes())
    assert problems == []
    results = run_cases(cases, partial(Engine(rules).answer, world=world))
    assert [result.wrong for result in results if result.wrong] == []
    assert covered(results, rules.rules) == ([], 1.0)
    assert lint(rules, world) == []


def test_the_docs_show_it_and_every_key():
    """The example's text is in the docs; each key has its row."""
    assert (DATA / "90-household.policy").read_text() in DOCS
    for key in [*QUBES_KEYS, *KEYS]:
        assert f"| `{key}=` |" in DOCS, key


def test_the_world_is_that_of_the_records():
    """Names, classes, tags and disposables; and lint is content with both."""
    records = load_records((), shipped=DATA.parent / "sandboxes.d")
    assert records.problems == ()
    made = world_of(records)
    world = world_from_json(json.loads((DATA / "household.json").read_text()))
    for name, domain in world.domains.items():
        assert replace(made.domains[name], power_state="Halted") == domain
    rules = load_rules([DATA], check_owner=False)
    assert lint_records(records, rules, made) == []
