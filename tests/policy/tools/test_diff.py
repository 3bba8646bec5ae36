"""Every changed decision is found, and nothing else is called changed."""

from __future__ import annotations

import itertools

from hypothesis import HealthCheck, given, settings

from policy.rules.engine import Engine, PolicyCall
from policy.rules.world import Domain, World
from policy.tools.diff import diff, outcome
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
