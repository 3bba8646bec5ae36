"""Every changed decision is found, and nothing else is called changed."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings

from policy.rules.engine import Engine, PolicyCall
from policy.rules.world import Domain, World
from policy.tools.diff import diff, outcome
from policy.tools.effective import grants
from policy.tools.files_in_memory import rules_of_map
from tests.policy import strategies


def _rules(text):
    return rules_of_map({"10-a.policy": text})


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(strategies.policies(5), strategies.policies(5), strategies.worlds())
def test_complete_and_sound(one, other, world):
    """Tried with every call: changed if and only if its class is named."""
    old, new = _rules(one), _rules(other)
    changes = diff(old, new, world)
    engines = Engine(old), Engine(new)
    for change in changes:
        assert outcome(change.old) != outcome(change.new)
    services = {change.call.service for change in changes}
    made = [f"@dispvm:{name}" for name in world.names if world.is_template(name)]
    targets = ["", "@adminvm", "@dispvm", *world.names, *made]
    told = [
        ("", "", ""),
        ("image/png", "https", "a.example.org"),
        ("", "http", "example.org"),
    ]
    for service, argument, source, target, (mime, scheme, host) in itertools.product(
        ["a", "b", "c"], ["+", "+x", "+z"], world.names, targets, told
    ):
        call = PolicyCall(service, argument, source, target, mime, scheme, host)
        before, after = (engine.answer(call, world) for engine in engines)
        if outcome(before) != outcome(after):
            named = service if service in services else "(any other service)"
            assert named in services, (one, other, call)


def test_a_moved_line_is_no_change():
    """Lines differ, decisions do not."""
    world = World({"work": Domain("work"), "vault": Domain("vault")})
    old = _rules("a * work vault allow\nb * * * deny\n")
    new = _rules("# words\nb * * * deny\na * work vault allow\n")
    assert diff(old, new, world) == []


def test_a_class_is_named_once():
    """Two sandboxes that no rule tells apart are one class."""
    tags = frozenset({"job"})
    world = World(
        {
            "work": Domain("work", tags=tags),
            "more": Domain("more", tags=tags),
            "vault": Domain("vault"),
        }
    )
    changes = diff(
        _rules("a * @tag:job vault allow\n"), _rules("a * @tag:job vault deny\n"), world
    )
    # with an argument that no rule names there is one class of arguments
    assert [(c.call.service, c.sources, c.targets) for c in changes] == [
        ("a", ("work", "more"), ("vault",))
    ]
    assert (changes[0].old.verdict, changes[0].new.verdict) == ("allow", "deny")


def test_a_rule_of_the_network_is_a_change():
    """It leads to '@net', which no other service names: diff said that nothing changes."""
    world = World({"work": Domain("work"), "vault": Domain("vault")})
    rule = "vitrail.Network +www.example.org work @net allow\n"
    (change,) = diff(_rules(""), _rules(rule), world)
    assert change.call[:4] == (
        *("vitrail.Network", "+www.example.org"),
        *("work", "@net"),
    )
    assert (change.sources, change.targets) == (("work",), ("@net",))
    assert (change.old.verdict, change.new.verdict) == ("deny", "allow")
    (effective,) = grants(_rules(rule), world, "work")
    assert (effective.call.argument, effective.targets) == (
        "+www.example.org",
        ("@net",),
    )


@pytest.mark.parametrize(("target", "flows"), [("*", 1), ("@net", 1), ("vault", 0)])
def test_a_rule_for_every_service_is_one_of_the_network(target, flows):
    world = World({"work": Domain("work"), "vault": Domain("vault")})
    changes = diff(_rules(""), _rules(f"* * work {target} allow\n"), world)
    assert sum(change.targets == ("@net",) for change in changes) == flows


def test_ports_that_change_nothing_more_are_no_changes_of_their_own():
    world = World({"work": Domain("work"), "vault": Domain("vault")})
    rules = _rules(
        "vitrail.Network +a.test work @net allow port=443\n"
        "vitrail.Network +b.test work @net ask\n"
    )
    changes = diff(_rules(""), rules, world)
    flows = [(c.call.argument, c.call.protocol, c.call.port) for c in changes]
    assert flows == [
        ("+a.test", "tcp", 443),
        ("+a.test", "udp", 443),
        ("+b.test", None, None),
    ]
    rows = [
        (g.call.argument, g.call.protocol, g.call.port)
        for g in grants(rules, world, "work")
    ]
    assert rows == flows
