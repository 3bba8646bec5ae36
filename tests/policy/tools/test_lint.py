"""Lint's findings as a table, and its sets confirmed by trying every call."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from policy.rules.checks import CHECKS
from policy.rules.engine import Engine, PolicyCall
from policy.rules.world import Domain, World
from policy.tools.algebra import Atoms, reach
from policy.tools.files_in_memory import rules_of_map
from policy.tools.linting.lint import lint
from tests.policy import strategies

_QUIET = settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow]
)
_WORLD = World(
    {
        "dom0": Domain("dom0", "AdminVM", power_state="Running"),
        "work": Domain("work", "persistent", frozenset({"job"}), "web"),
        "vault": Domain("vault", "persistent", frozenset({"safe"})),
        "web": Domain("web", "disposable", template_for_dispvms=True),
    }
)

FLOW = "vitrail.Network"
SSH = "vitrail.SshAgent * work vault"


def _rules(text):
    return rules_of_map({"10-a.policy": text})


def _every_call(world, attributes=({},)):
    names = [*world.names, "nobody"]
    made = [f"@dispvm:{name}" for name in world.names if world.is_template(name)]
    targets = ["", "@adminvm", "@dispvm", *world.names, *made]
    for words in itertools.product(["a", "b", "c"], ["+", "+x", "+z"], names, targets):
        for told in attributes:
            yield PolicyCall(*words, **told)


@_QUIET
@given(strategies.policies(8, plain=True), strategies.worlds())
def test_what_decides_and_what_matches_is_exact(text, world):
    """A rule is said to decide if and only if some call is decided by it."""
    rules = _rules(text).rules
    known = reach(rules, Atoms(rules, world, instances=False))
    engine = Engine(_rules(text))
    deciders = {engine.answer(call, world).rule for call in _every_call(world)}
    assert known.decides == [rule in deciders for rule in rules]
    for number, rule in enumerate(rules):
        alone = Engine(_rules("\n" * (rule.line - 1) + rule.text))
        hit = any(alone.answer(call, world).rule for call in _every_call(world))
        assert known.matches[number] == hit


@_QUIET
@given(strategies.policies(8), strategies.worlds())
def test_no_rule_with_conditions_is_wrongly_called_idle(text, world):
    """With conditions, a line reported as never deciding never does."""
    rules = _rules(text).rules
    known = reach(rules, Atoms(rules, world, instances=False))
    engine = Engine(_rules(text))
    attributes = [
        {"scheme": scheme, "host": host, "mime": mime}
        for scheme in (None, "http", "https")
        for host in (None, "", "a.example.org")
        for mime in (None, "image/png")
    ]
    calls = [call for call in _every_call(world, attributes) if call.argument != "+z"]
    deciders = {engine.answer(call, world).rule for call in calls}
    for number, rule in enumerate(rules):
        assert known.decides[number] or rule not in deciders


@_QUIET
@given(strategies.policies(8, plain=True), strategies.worlds())
def test_asks_that_offer_nothing_offer_nothing(text, world):
    """Confirmed for every source, target and argument."""
    rules = _rules(text)
    lines = {
        f.problem.span.line for f in lint(rules, world) if f.check == "ask-nothing"
    }
    engine = Engine(rules)
    for call in _every_call(world):
        answer = engine.answer(call, world)
        known = answer.rule and call.source in world.domains and call.source != "dom0"
        if known and answer.rule.line in lines:
            assert answer.verdict == "deny"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a * work vault allow\na * * @anyvm deny\n", []),
        ("a * @anyvm @anyvm deny\na * work vault allow\n", [("contradictory", 2, 16)]),
        ("a * @anyvm @anyvm deny\na * work vault deny\n", [("redundant", 2, 16)]),
        ("a * * vault deny\na * * web allow\na * work @anyvm allow\na * work @type:disposable ask\n",
         [("shadowed", 4, 27)]),
        ("a * work vault allow mode=observe\na * work vault deny\n", []),
        ("a * work vault allow scheme=https\na * work vault deny\n", []),
        ("a * work vault allow scheme=https\na * work vault ask scheme=https\n", [("shadowed", 2, 16)]),
        ("a * work vault allow scheme=https\na * work vault deny scheme=https\n", []),
        ("a * vualt @anyvm deny\n", [("unknown-sandbox", 1, 5)]),
        ("a * work vualt allow\n", [("never-matches", 1, 1), ("unknown-sandbox", 1, 10)]),
        ("a * @tag:jbo @anyvm deny\n", [("never-matches", 1, 1), ("unknown-tag", 1, 5)]),
        ("a * @type:AppVM @anyvm deny\n", [("never-matches", 1, 1), ("unknown-type", 1, 5)]),
        ("a * @dispvm:web @anyvm deny\n", [("never-matches", 1, 1)]),
        ("a * work @default ask target=wbe\n", [("ask-nothing", 1, 19), ("unknown-sandbox", 1, 23)]),
        ("a * vault @dispvm ask\n", [("ask-nothing", 1, 19)]),
        ("a * work web ask default_target=vault\n", [("default-not-offered", 1, 18)]),
        ("a * work @anyvm ask default_target=@dispvm\n", []),
        ("a * work * ask\n", [("reaches-viewer", 1, 10)]),
        (f"{FLOW} +a.test work @net allow port=443\n{FLOW} * work @net deny\n", []),
        (f"{FLOW} * work * allow\n{FLOW} +10.0.0.0/8 work @net ask\n", []),
        (f"{FLOW} * work @net allow\n{FLOW} +8.0.0.0/5 work @net ask\n", []),
        (f"{FLOW} * work @net deny\n{FLOW} +10.0.0.0/8 work @net allow\n", [("contradictory", 2, 39)]),
        (f"{FLOW} * work @net allow\n{FLOW} +a.test work @net allow\n", [("redundant", 2, 35)]),
        (f"{FLOW} * work @anyvm allow\n", [("never-matches", 1, 1)]),
        ("a * work @net allow\n", [("never-matches", 1, 1)]),
        ("* * work vault allow\n", [("too-wide", 1, 1)]),
        ("a * work vault ask mime=text/html\na * @anyvm @anyvm allow\n", [("claim", 1, 20)]),
        ("a * work vault ask mime=text/html\na * work vault deny\n", []),
        (f"{SSH} ask key=me\n{SSH} allow\n", [("passes-on", 1, 35)]),
        (f"{SSH} allow key=me host=a.b\n{SSH} allow key=me\n", [("passes-on", 1, 44)]),
        (f"{SSH} ask key=me\n{SSH} deny\nvitrail.SshAgent * work @anyvm allow\n", []),
        ("a * work vault deny\na * work @default allow target=vault\n", [("redirect-denied", 2, 25)]),
        ("a * W0rk vault allow\n", [("unknown-sandbox", 1, 5), ("look-alike", 1, 5)]),
        ("a * work vault alow\n", [("error", 1, 16)]),
        ("vitrail.OpenUrl * work vault deny\n", [("unknown-service", 1, 1)]),
        ("vitrail.Tcp +99999 work vault allow\n", [("unknown-port", 1, 13)]),
        ("vitrail.Tcp +0 work vault allow\n", [("unknown-port", 1, 13)]),
        ("vitrail.Tcp +http work vault deny\n", [("unknown-port", 1, 13)]),
        ("vitrail.Tcp +080 work vault deny\n", [("unknown-port", 1, 13)]),
        ("vitrail.Tcp +65535 work vault allow\nvitrail.Tcp * work vault deny\n", []),
        ("vitrail.FileCpy * work vault deny\n", [("unknown-service", 1, 1)]),
        ("vitrail.OpenURL * work vault deny\nmy.Service * work vault deny\n", []),
    ],
)  # fmt: skip
def test_findings(text, found):
    """Check, line and column."""
    got = [
        (f.check, f.problem.span.line, f.problem.span.column)
        for f in lint(_rules(text), _WORLD)
    ]
    assert sorted(got) == sorted(found)


def test_findings_name_the_lines_that_cause_them():
    """Two rules together shadow a third."""
    text = "a * * vault deny\na * * web deny\na * work @type:disposable allow\n"
    (finding,) = lint(_rules(text), _WORLD)
    assert (
        finding.check == "contradictory" or "10-a.policy:2" in finding.problem.message
    )
    text = "a * work vault deny\na * vault,\n"
    assert lint(_rules(text), _WORLD)[0].check == "error"


def test_a_running_disposable_counts_as_a_source():
    """Its name is new: its record's rules are for it, those of Qubes' template not."""
    text = "a * web @anyvm deny\na * @type:{} vault allow\n"
    for kind, instances in (("disposable", ["contradictory"]), ("AppVM", [])):
        web = Domain("web", kind, template_for_dispvms=True)
        world = World({**_WORLD.domains, "web": web})
        rules = _rules(text.format(kind))
        assert [f.check for f in lint(rules, world)] == ["contradictory"]
        found = lint(rules, world, instances=True)
        assert [f.check for f in found] == instances


def test_every_check_has_a_sentence():
    """And one of the levels of SARIF."""
    for level, sentence in CHECKS.values():
        assert level in {"error", "warning", "note"}
        assert sentence


def test_the_docs_list_every_check():
    """In the words and the order of the table."""
    docs = Path(__file__).parent.parent.parent.parent / "docs" / "policy.md"
    lines = [f"* `{name}` ({level}): {text}" for name, (level, text) in CHECKS.items()]
    assert "\n".join(lines) in docs.read_text()
