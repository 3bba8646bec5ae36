"""Every earlier rule has a reason, and a flip flips."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings

from policy.rules.engine import Engine, PolicyCall, intended
from policy.rules.grammar import Form, parse_lines
from policy.rules.world import Domain, World
from policy.tools.explain import as_json, explain, with_rule
from policy.tools.files_in_memory import rules_of_map
from tests.policy import strategies

_QUIET = settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow]
)
_WORLD = World(
    {
        "work": Domain("work", "persistent", frozenset({"job"}), "web"),
        "vault": Domain("vault", "persistent", frozenset({"safe"})),
        "web": Domain("web", "disposable", template_for_dispvms=True),
    }
)


def _rules(text):
    return rules_of_map({"10-a.policy": text})


@_QUIET
@given(strategies.policies(), strategies.worlds(), strategies.calls)
def test_a_flip_flips_and_misses_are_all_earlier_rules(text, world, call):
    """The line, put where it is said to belong, turns the answer around."""
    rules = _rules(text)
    found = explain(rules, call, world)
    assert found.answer == Engine(rules).answer(call, world)
    if found.flip is not None:
        (new,) = parse_lines("new", found.flip.text.encode(), Form(), lambda _: None)
        after = Engine(with_rule(rules, new, found.flip.before)).answer(call, world)
        assert after.verdict == found.flip.verdict
        assert (after.verdict == "deny") != (found.answer.verdict == "deny")
    if intended(call.target, world) is not None:
        earlier = [miss.rule.line for miss in found.misses]
        last = found.answer.rule.line if found.answer.rule else len(rules.rules) + 1
        assert earlier == list(range(1, last))


def test_each_column_says_why():
    """The first column that failed, in words."""
    text = """\
b * * * allow
a +y * * allow
a * vault * allow
a * @tag:safe * allow
a * @type:disposable * allow
a * * web allow
a * * @default allow target=vault
a * * @adminvm allow
a * * vault allow mime=image/* scheme=https
a * * vault allow mode=observe
a * * * deny
"""
    call = PolicyCall("a", "+x", "work", "vault", mime="text/plain")
    found = explain(_rules(text), call, _WORLD)
    assert [(m.rule.line, m.column, m.why) for m in found.misses] == [
        (1, "service", "'a' is not b"),
        (2, "argument", "'+x' is not +y"),
        (3, "source", "'work' is not vault"),
        (4, "source", "'work' does not have the tag safe (it has job)"),
        (5, "source", "'work' is persistent, not disposable"),
        (6, "target", "'vault' is not web"),
        (7, "target", "'vault' is not @default"),
        (8, "target", "'vault' is not @adminvm"),
        (9, "condition", "mime is 'text/plain', not image/*"),
        (10, "mode", "the rule matches, but does not decide with mode=observe"),
    ]
    assert found.nearest.rule.line == 10
    assert (found.flip.text, found.flip.before.line) == ("a +x work vault allow", 11)


def test_no_rule_at_all():
    """The flip may be anywhere."""
    found = explain(_rules(""), PolicyCall("a", "+", "work", "vault"), _WORLD)
    assert (found.flip.text, found.flip.before) == ("a + work vault allow", None)
    assert found.nearest is None
    assert as_json(found)["flip"]["before"] is None


def test_nothing_flips_what_no_rule_can_allow():
    """No disposable is made of it, whatever rules say."""
    call = PolicyCall("a", "+", "work", "@dispvm:vault")
    found = explain(_rules("a * * * allow"), call, _WORLD)
    assert (found.answer.verdict, found.flip) == ("deny", None)
