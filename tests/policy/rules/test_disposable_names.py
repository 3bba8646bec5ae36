"""Rules that name a disposable record are for the sandboxes that are made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from policy.records.loader import load_records
from policy.rules.engine import Engine, PolicyCall
from policy.rules.ruleset import rules_of_map
from policy.rules.world import world_of

_SHIPPED = Path(__file__).parents[3] / "broker" / "data" / "sandboxes.d"
_RULES = """\
x * web @anyvm deny
x * work viewer deny
x * @anyvm @anyvm allow
"""


@pytest.mark.parametrize(
    ("source", "target", "verdict"),
    [
        ("web", "work", "deny"),
        ("web-1234", "work", "deny"),
        ("viewer-77", "work", "allow"),
        ("work", "viewer-77", "deny"),
        ("work", "web-1234", "allow"),
        # Not running, so it is of no record; a likeness of names is no proof.
        ("web-9", "work", "allow"),
    ],
)
def test_a_record_s_name_is_its_sandboxes(source, target, verdict):
    records = load_records((), shipped=_SHIPPED)
    running = [("web-1234", "web"), ("viewer-77", "viewer")]
    engine = Engine(rules_of_map({"10-a.policy": _RULES}))
    answer = engine.answer(
        PolicyCall("x", "+", source, target), world_of(records, running)
    )
    assert answer.verdict == verdict
