"""Rules that name a disposable record are for the sandboxes that are made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from policy.records.loader import load_records
from policy.rules.engine import PolicyCall
from policy.rules.world import world_of
from policy.tools.files_in_memory import rules_of_map
from policy.tools.linting.offers import OfferingEngine

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
    engine = OfferingEngine(rules_of_map({"10-a.policy": _RULES}))
    answer = engine.answer(
        PolicyCall("x", "+", source, target), world_of(records, running)
    )
    assert answer.verdict == verdict


_FRESH = """\
x * work @dispvm:web deny
x * work @anyvm {}
"""


@pytest.mark.parametrize(
    ("target", "verdict"),
    [
        ("@dispvm:web", "deny"),
        # A call of the record starts a fresh one, whatever it is called.
        ("web", "deny"),
        ("web-1234", "allow"),
        ("viewer", "allow"),
        ("@dispvm:viewer", "allow"),
        ("banking", "allow"),
    ],
)
def test_a_record_s_name_as_target_is_a_fresh_one_of_it(target, verdict):
    """A sandbox chooses the words of its call, and the denied operation is the real one."""
    world = world_of(load_records((), shipped=_SHIPPED), [("web-1234", "web")])
    call = PolicyCall("x", "+", "work", target)
    engine = OfferingEngine(rules_of_map({"10-a.policy": _FRESH.format("allow")}))
    assert engine.answer(call, world).verdict == verdict
    asking = OfferingEngine(rules_of_map({"10-a.policy": _FRESH.format("ask")}))
    answer = asking.answer(call, world)
    if answer.rule is not None and answer.verdict == "ask":
        offered = set(answer.targets)
        assert offered >= {"web-1234", "viewer", "@dispvm:viewer", "banking"}
        assert offered.isdisjoint({"web", "@dispvm:web"})
        for name in ("web", "viewer"):
            told = asking.offers(call, answer.rule, name, world)
            assert told == (name in offered)
            if asking.surely_offered(call, name, answer.rule, world):
                assert name in offered


def test_a_rule_that_comes_before_the_denial_counts():
    world = world_of(load_records((), shipped=_SHIPPED))
    text = "x * work web allow\nx * work @dispvm:web deny\n"
    engine = OfferingEngine(rules_of_map({"10-a.policy": text}))
    call = PolicyCall("x", "+", "work", "web")
    assert engine.answer(call, world).verdict == "allow"


@pytest.mark.parametrize(
    ("rules", "offered"),
    [
        ("x * work web ask\n", {"web", "web-1234"}),
        # A deny of fresh ones leaves the one that runs.
        ("x * work @dispvm:web deny\nx * work web ask\n", {"web-1234"}),
        # A redirect leads to a fresh one, and to no other.
        ("x * work web ask target=web\n", {"web"}),
    ],
)
def test_ask_about_a_record_offers_its_running_sandboxes(rules, offered):
    """A paste has one target, the focused window's: ``ask`` never asked about it."""
    world = world_of(load_records((), shipped=_SHIPPED), [("web-1234", "web")])
    engine = OfferingEngine(rules_of_map({"10-a.policy": rules}))
    call = PolicyCall("x", "+", "work", "web-1234")
    answer = engine.answer(call, world)
    assert (answer.verdict, set(answer.targets)) == ("ask", offered)
    assert answer.rule is not None
    assert all(engine.offers(call, answer.rule, name, world) for name in offered)


def test_denied_running_sandbox_is_not_offered():
    world = world_of(load_records((), shipped=_SHIPPED), [("web-1234", "web")])
    rules = "x * work web-1234 deny\nx * work web ask\n"
    engine = OfferingEngine(rules_of_map({"10-a.policy": rules}))
    assert (
        engine.answer(PolicyCall("x", "+", "work", "web-1234"), world).verdict == "deny"
    )
    answer = engine.answer(PolicyCall("x", "+", "work", "web"), world)
    assert answer.targets == ("web",)
