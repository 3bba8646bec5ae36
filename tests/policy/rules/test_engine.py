"""The index against a plain walk, and the answers as a table."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policy.rules.engine import Engine, PolicyCall
from policy.rules.world import Domain, World
from policy.tools.files_in_memory import rules_of_map
from policy.tools.linting.offers import OfferingEngine
from policy.tools.qubes import compat
from tests.policy import reference, strategies

_QUIET = settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow]
)


def _rules(text):
    return rules_of_map({"10-a.policy": text})


@_QUIET
@given(
    strategies.policies(),
    strategies.worlds(),
    st.lists(strategies.calls, min_size=1, max_size=8),
)
def test_the_index_answers_as_a_plain_walk(text, world, calls):
    """Same verdict, same rule, same targets."""
    rules = _rules(text)
    assert rules.problems == ()
    engine = Engine(rules)
    for call in calls:
        answer = engine.answer(call, world)
        mine = (
            answer.verdict,
            answer.rule,
            answer.target,
            answer.targets,
            answer.default_target,
        )
        assert mine == reference.decide(rules.rules, call, world), (text, call)


@_QUIET
@given(
    strategies.policies(plain=True),
    strategies.worlds(),
    st.lists(strategies.plain_calls, min_size=1, max_size=8),
)
def test_stricter_than_qubes_and_never_laxer(text, world, calls):
    """What we allow or ask, Qubes' parser allows or asks by the same line.

    The other way it need not be: docs/policy-qubes.md has the differences,
    and each of them takes something away.
    """
    rules = _rules(text)
    engine = Engine(rules)
    # Qubes' parser finds a uuid only where the world has an entry for it.
    uuids = {f"uuid:{domain.uuid}": domain for domain in world.domains.values()}
    full = World({**world.domains, **uuids})
    for call in calls:
        ours, theirs = engine.answer(call, world), compat.answer(rules, call, full)
        if theirs.verdict == "error" or ours.verdict == "deny":
            continue
        assert (ours.verdict, ours.rule) == (theirs.verdict, theirs.rule)
        if ours.verdict == "ask" and ours.rule.redirect is None:
            named = {world.name_of(name) for name in theirs.targets}
            assert set(ours.targets) <= named
        if ours.verdict == "allow":
            assert ours.target == _named(theirs.target, world)


def _named(target, world):
    admin = target == "uuid:00000000-0000-0000-0000-000000000000"
    return "dom0" if admin else world.name_of(target)


_WORLD = World(
    {
        "dom0": Domain("dom0", "AdminVM", power_state="Running"),
        "work": Domain("work", "persistent", frozenset({"job"}), "web"),
        "vault": Domain(
            "vault", "persistent", frozenset({"safe"}), power_state="Running"
        ),
        "bank": Domain("bank", "persistent", frozenset({"safe"})),
        "web": Domain("web", "disposable", template_for_dispvms=True),
        "inner": Domain("inner", "persistent", internal=True),
    }
)


@pytest.mark.parametrize(
    ("text", "call", "verdict", "line", "more"),
    [
        ("", ("a", "+", "work", "vault"), "deny", None, {}),
        ("a * work vault allow", ("a", "+x", "work", "vault"), "allow", 1, {"target": "vault"}),
        ("a + work vault allow", ("a", "+x", "work", "vault"), "deny", None, {}),
        ("a * * @anyvm allow", ("a", "+", "work", "dom0"), "deny", None, {}),
        ("a * * * allow", ("a", "+", "work", "dom0"), "allow", 1, {"target": "dom0"}),
        ("a * @anyvm @anyvm allow", ("a", "+", "work", ""), "deny", 1, {}),
        ("a * @anyvm @anyvm allow", ("a", "+", "work", "@dispvm"), "allow", 1, {"target": "@dispvm:web"}),
        ("a * @anyvm @anyvm allow", ("a", "+", "vault", "@dispvm"), "deny", 1, {}),
        ("a * work @default allow target=vault", ("a", "+", "work", "gone"), "allow", 1, {"target": "vault"}),
        ("a * work vault deny\na * work @anyvm allow target=vault", ("a", "+", "work", ""), "deny", 2, {}),
        ("a * work @default allow target=vault\na * * * deny", ("a", "+", "work", ""), "allow", 1, {"target": "vault"}),
        ("a * work vault deny\na * work @default ask target=vault", ("a", "+", "work", ""), "deny", 2, {}),
        ("a * work @dispvm:web deny\na * work @default allow target=@dispvm", ("a", "+", "work", ""), "deny", 2, {}),
        ("a * work @dispvm:web deny\na * work * ask", ("a", "+", "work", ""), "ask", 2, {"targets": ("bank", "dom0", "vault")}),
        ("a * work vault deny\na * work @anyvm ask default_target=vault", ("a", "+", "work", ""), "ask", 2,
         {"targets": ("@dispvm:web", "bank", "web"), "default_target": None}),
        ("a * work @tag:safe ask default_target=bank", ("a", "+", "work", "vault"), "ask", 1,
         {"targets": ("bank", "vault"), "default_target": "bank"}),
        ("a * work @tag:safe ask autostart=no", ("a", "+", "work", "vault"), "ask", 1, {"targets": ("vault",)}),
        ("a * work @tag:none ask", ("a", "+", "work", "vault"), "deny", None, {}),
        ("a * work * ask\na * * * deny", ("a", "+", "work", ""), "ask", 1, {}),
        ("a * * * allow", ("a", "+", "work", "work"), "deny", 1, {}),
        ("a * * * allow", ("a", "+", "work", "@dispvm:vault"), "deny", None, {}),
        ("a * * * allow", ("a", "+", "work", "@tag:safe"), "deny", None, {}),
        ("a * * * allow autostart=no", ("a", "+", "work", "bank"), "deny", 1, {"notify": False}),
        ("a * * vault deny notify=no", ("a", "+", "work", "vault"), "deny", 1, {"notify": False}),
        ("a * * vault allow user=me", ("a", "+", "work", "vault"), "allow", 1, {"user": "me"}),
        ("a * * vault allow mode=observe\na * * * deny", ("a", "+", "work", "vault"), "deny", 2, {}),
    ],
)  # fmt: skip
def test_answers(text, call, verdict, line, more):
    """Rules, call, verdict, deciding line, details."""
    answer = Engine(_rules(text)).answer(PolicyCall(*call), _WORLD)
    assert (answer.verdict, answer.rule.line if answer.rule else None) == (
        verdict,
        line,
    )
    for name, value in more.items():
        assert getattr(answer, name) == value


_MATCHES = (
    "a * * vault allow scheme=https host=*.example.org\na * * vault ask mime=image/*\n"
)


@pytest.mark.parametrize(
    ("told", "verdict", "line"),
    [
        ({"scheme": "https", "host": "www.example.org"}, "allow", 1),
        ({"scheme": "HTTPS", "host": "WWW.Example.ORG."}, "allow", 1),
        ({"scheme": "https", "host": "example.org"}, "deny", None),
        ({"scheme": "https", "host": "badexample.org"}, "deny", None),
        ({"scheme": "http", "host": "www.example.org"}, "deny", None),
        ({"scheme": "https"}, "deny", None),
        ({"mime": "image/png"}, "ask", 2),
        ({"mime": "IMAGE/PNG"}, "ask", 2),
        ({"mime": "imagex/png"}, "deny", None),
        ({}, "deny", None),
    ],
)
def test_match_conditions(told, verdict, line):
    """Where a condition does not hold, the next rule is asked."""
    answer = Engine(_rules(_MATCHES)).answer(
        PolicyCall("a", "+", "work", "vault", **told), _WORLD
    )
    assert (answer.verdict, answer.rule.line if answer.rule else None) == (
        verdict,
        line,
    )


@pytest.mark.parametrize(
    ("told", "line"),
    [({"scheme": "http"}, 1), ({"scheme": "https"}, 2), ({"scheme": ""}, 2), ({}, 1)],
)
def test_a_deny_applies_to_unknown_facts(told, line):
    """Unknown is denied: only a known fact may pass a deny."""
    rules = _rules("a * * * deny scheme=http\na * * * allow")
    assert (
        Engine(rules)
        .answer(PolicyCall("a", "+", "work", "vault", **told), _WORLD)
        .rule.line
        == line
    )


@pytest.mark.parametrize(
    ("size", "verdict"), [(None, "allow"), (10, "allow"), (11, "deny")]
)
def test_a_limit_is_terminal(size, verdict):
    """Beyond it the answer is deny, never the next and laxer rule."""
    rules = _rules(
        "a * * vault allow max-size=10 rate=3/min ttl=10m gesture=5s\na * * * allow"
    )
    answer = Engine(rules).answer(
        PolicyCall("a", "+", "work", "vault", size=size), _WORLD
    )
    assert (answer.verdict, answer.rule.line) == (verdict, 1)
    if verdict == "allow":
        assert answer.limits.as_json() == {
            "max-size": 10,
            "rate": [3, 60],
            "ttl": 600,
            "gesture": 5,
        }


def test_an_observing_rule_decides_nothing_and_is_named():
    """Neither its deny nor its allow counts; the answer says it would have."""
    rules = _rules("a * * * deny mode=observe\na * * vault allow\n")
    answer = Engine(rules).answer(PolicyCall("a", "+", "work", "vault"), _WORLD)
    assert (answer.verdict, answer.rule.line, [r.line for r in answer.observed]) == (
        "allow",
        2,
        [1],
    )


@pytest.mark.parametrize(
    ("broken", "a", "b"),
    [
        (
            "a * work vault alow",
            "deny",
            "deny",
        ),  # a column may be missing: all is barred
        ("a * work vault allow x=1", "deny", "allow"),  # only where it would decide
        ("a * web vault allow x=1", "allow", "allow"),
        ("a * work", "deny", "deny"),
        ("!include nothing", "deny", "deny"),
        ("a * work @tagg:x allow", "deny", "allow"),
        ("a+x * work vault allow", "deny", "deny"),
    ],
)
def test_a_broken_line_denies_the_requests_it_might_match(broken, a, b):
    """Neither opens nor silences: rules before it and about others hold."""
    rules = _rules(f"c * * * allow\n{broken}\na * * * allow\nb * * * allow\n")
    engine = Engine(rules)
    assert len(rules.problems) == 1
    for service, verdict in (("a", a), ("b", b), ("c", "allow")):
        answer = engine.answer(PolicyCall(service, "+", "work", "vault"), _WORLD)
        assert answer.verdict == verdict
        assert verdict == "allow" or "its effect is unknown" in answer.reason


@given(
    st.text(max_size=20),
    st.text(max_size=20),
    st.text(max_size=20),
    st.text(max_size=20),
)
@settings(deadline=None)
def test_no_call_raises(service, argument, source, target):
    """Whatever it holds, there is an answer."""
    engine = Engine(_rules("* * * @anyvm ask\n* * * * allow\n"))
    assert engine.answer(
        PolicyCall(service, argument, source, target), _WORLD
    ).verdict in {
        "allow",
        "ask",
        "deny",
    }


@settings(deadline=None, max_examples=60)
@given(
    strategies.policies(10),
    strategies.worlds(),
    st.lists(strategies.calls, min_size=1, max_size=6),
)
def test_offers_is_offered(text, world, calls):
    """One target asked for is as all of them looked through."""
    rules = rules_of_map({"1.policy": text})
    engine = OfferingEngine(rules)
    everything = ["dom0", *world.names, *(f"@dispvm:{n}" for n in world.names), "x"]
    for call in calls:
        for rule in rules.rules:
            if rule.action != "ask":
                continue
            all_of_them = engine.offered(call, rule, world)
            assert all_of_them <= set(everything)
            found = {t for t in everything if engine.offers(call, rule, t, world)}
            assert found == all_of_them
