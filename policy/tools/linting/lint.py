"""Mistakes in rules that are valid.

Rules without effect, unknown names, doors that stand wider open than
they look.

``decides`` and ``matches`` are exact (see ``algebra``), but for rules with
conditions: two different conditions are taken to be about different calls.
A finding that depends on the world says so: a sandbox may be added later.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections.abc import Iterator, Mapping

from policy.destinations import NET, NETWORK
from policy.rules.checks import CHECKS, DEVICE
from policy.rules.rule import Rule
from policy.rules.ruleset import RuleSet
from policy.rules.world import DISPVM_OF, World
from policy.tools.algebra import Atoms, Reach, reach
from policy.tools.linting.confusables import look
from policy.tools.linting.finding import found_in, parameter, tokens_of
from policy.tools.linting.lint_asks import lint_asks
from policy.tools.linting.sarif import LintFinding
from policy.tools.linting.unknown import is_known, unknown_names, unknown_services

_SSH_AGENT = "vitrail.SshAgent"


def lint(rules: RuleSet, world: World, *, instances: bool = False) -> list[LintFinding]:
    """Return the findings in the order of the lines.

    A set with errors is not examined: its meaning is not known.
    """
    if rules.problems:
        return [LintFinding("error", "error", problem) for problem in rules.problems]
    by: dict[tuple[object, ...], list[int]] = {}
    for number, rule in enumerate(rules.rules):
        columns = (rule.service, rule.argument, rule.source.key, rule.target.key)
        by.setdefault(columns, []).append(number)
    found = [
        *_without_effect(rules.rules, world, instances=instances),
        *unknown_names(rules.rules, world),
        *unknown_services(rules.rules),
        *_wide(rules.rules),
        *_claims(rules.rules, by),
        *_keys(rules.rules, by),
        *_devices(rules.rules),
        *lint_asks(rules, world),
        *_look_alikes(rules.rules, world),
    ]
    order = {file: number for number, file in enumerate(rules.files)}
    return sorted(found, key=lambda f: (order.get(f.problem.file, 0), f.problem.span))


# -- rules without effect ----------------------------------------------------------------


def _without_effect(
    rules: tuple[Rule, ...], world: World, *, instances: bool
) -> Iterator[LintFinding]:
    """Yield a finding for each rule that matches or decides no call."""
    known = reach(rules, Atoms(rules, world, instances=instances))
    asks = {rule.service for rule in rules if rule.action == "ask"}
    for number, rule in enumerate(rules):
        if not known.matches[number]:
            text = f"no call matches this rule: {_empty(rule, world)}"
            yield found_in("never-matches", rule, 0, text)
        elif not known.decides[number]:
            yield _idle(rules, number, known, offers=bool(asks & {None, rule.service}))


def _empty(rule: Rule, world: World) -> str:
    """Return in words why no call matches a rule."""
    source = rule.source
    if source.prefix.startswith(DISPVM_OF):
        return f"a source cannot be '{source.text}'"
    if source.prefix in {"@tag:", "@type:"} and not is_known(source, world):
        return f"no source matches '{source.text}'"
    if (rule.service == NETWORK) != (rule.target.key == NET):
        return f"calls of {NETWORK}, and no others, have the target '{NET}'"
    return f"no target matches '{rule.target.text}'"


def _idle(
    rules: tuple[Rule, ...], number: int, known: Reach, *, offers: bool
) -> LintFinding:
    """Return the finding about a rule that earlier rules leave without a call."""
    rule = rules[number]
    causes = [rules[n] for n in known.by.get(number, [])]
    where = ", ".join(cause.where for cause in causes) or "earlier rules"
    check = "shadowed"
    if causes and all(cause.outcome() == rule.outcome() for cause in causes):
        check = "redundant"
    elif causes and all(
        (cause.action == "deny") != (rule.action == "deny") for cause in causes
    ):
        check = "contradictory"
    words = {
        "redundant": "already decides the same",
        "contradictory": f"decides differently, so this {rule.action} has no effect",
        "shadowed": "decides all calls that it matches",
    }[check]
    text = f"this rule never decides: {where} {words}"
    if offers and rule.action != "deny":
        text += " (it may still add targets to an 'ask')"
    return found_in(check, rule, 4, text)


# -- names -------------------------------------------------------------------------------


def _look_alikes(rules: tuple[Rule, ...], world: World) -> Iterator[LintFinding]:
    """Yield a finding for names in rules that a reader takes for another sandbox's."""
    looks: dict[str, str] = {}
    for name in world.names:
        looks.setdefault(look(name), name)
    told: set[str] = set()
    for rule in rules:
        for column, token in tokens_of(rule):
            other = looks.get(look(token.value)) if token.literal else None
            if other is None or other == token.value or token.value in told:
                continue
            told.add(token.value)
            text = f"'{token.value}' looks like the sandbox '{other}'"
            yield found_in("look-alike", rule, column, text)


# -- doors ------------------------------------------------------------------------------


def _wide(rules: tuple[Rule, ...]) -> Iterator[LintFinding]:
    """Yield a finding for each grant that is wider than it looks."""
    for rule in rules:
        if rule.action == "deny" or rule.observe:
            continue
        viewer = rule.target.key == "*" and rule.service != NETWORK
        if viewer and rule.redirect is None:
            text = f"{rule.action} with target * includes the viewer"
            yield found_in(
                "reaches-viewer", rule, 3, text, "use @anyvm, which excludes it"
            )
        if rule.service is None and rule.action == "allow":
            text = "the rule allows every service, including those of later versions"
            yield found_in("too-wide", rule, 0, text, "name the services")


def _claims(
    rules: tuple[Rule, ...], by: Mapping[tuple[object, ...], list[int]]
) -> Iterator[LintFinding]:
    """Yield a finding where another claimed type escapes an ask to a later allow."""
    for number, rule in enumerate(rules):
        if not rule.match.mime or rule.action != "ask" or rule.observe:
            continue
        for later in _covering(rules, by, number):
            if later.action == "allow" and not later.observe:
                text = f"{later.where} allows a sandbox that claims another type, without a question"
                yield found_in("claim", rule, parameter(rule, "mime="), text)
                break
            if later.unconditional:
                break


def _keys(
    rules: tuple[Rule, ...], by: Mapping[tuple[object, ...], list[int]]
) -> Iterator[LintFinding]:
    """Yield a finding where a later rule allows keys or hosts left out here."""
    for number, rule in enumerate(rules):
        if rule.service != _SSH_AGENT or rule.action == "deny" or rule.observe:
            continue
        for name in ("key", "host"):
            if not getattr(rule.match, name):
                continue
            for later in _covering(rules, by, number):
                wider = not getattr(later.match, name) and not later.observe
                if wider and later.action == "allow":
                    text = f"{later.where} allows a use with another {name}"
                    hint = "exclude these keys from the later rule, or add a deny before it"
                    column = parameter(rule, f"{name}=")
                    yield found_in("passes-on", rule, column, text, hint)
                if wider:
                    break


def _devices(rules: tuple[Rule, ...]) -> Iterator[LintFinding]:
    """Yield findings about device conditions, as those without effect."""
    for rule in rules:
        asked = [name for name, _ in rule.match.device.conditions]
        if asked and rule.service not in {None, DEVICE}:
            what = "always applies" if rule.action == "deny" else "never applies"
            text = f"calls of '{rule.service}' have no device, so this rule {what}"
            column = parameter(rule, f"{asked[0]}=")
            yield found_in("device-elsewhere", rule, column, text)
        pinned = {"with-interface", "class", "hash"}.intersection(asked)
        if rule.service == DEVICE and rule.action == "allow" and not pinned:
            text = f"{CHECKS['device-unpinned'][1]} (keyboards and hubs excepted)"
            hint = "add with-interface=, class= or hash="
            yield found_in("device-unpinned", rule, 4, text, hint)


def _covering(
    rules: tuple[Rule, ...], by: Mapping[tuple[object, ...], list[int]], number: int
) -> Iterator[Rule]:
    """Yield later rules that surely match all that a rule matches, in order."""
    rule = rules[number]
    columns = itertools.product(
        {rule.service, None},
        {rule.argument, None},
        {rule.source.key, "*", "@anyvm"},
        {rule.target.key, "*", "@anyvm"},
    )
    lists = [by[column] for column in columns if column in by]
    behind = [itertools.islice(one, bisect.bisect(one, number), None) for one in lists]
    return (rules[later] for later in heapq.merge(*behind))
