"""What is valid and still wrong.

Rules without effect, names that nobody has, doors that stand wider open than
they look.

``decides`` and ``matches`` are exact (see ``algebra``), but for rules with
conditions: two different conditions are taken to be about different calls.
What rests on the world says so; a sandbox may be added later.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping

from policy import limits
from policy.algebra import Atoms, Reach, reach
from policy.checks import CHECKS
from policy.conditions import NO_MATCH
from policy.engine import Call, Engine, expand
from policy.errors import Problem, Span, nearest
from policy.looks import look
from policy.rule import Rule
from policy.ruleset import RuleSet
from policy.sarif import Finding
from policy.tokens import Token
from policy.world import ADMIN, DEFAULT, DISPVM, DISPVM_OF, World

_WORD = re.compile(r"[^ \t]+")


def lint(rules: RuleSet, world: World, *, instances: bool = False) -> list[Finding]:
    """Return the findings in the order of the lines.

    A set with errors is not looked into: what it says is not known.
    """
    if rules.problems:
        return [Finding("error", "error", problem) for problem in rules.problems]
    found = [
        *_without_effect(rules.rules, world, instances=instances),
        *_names(rules.rules, world),
        *_wide(rules.rules),
        *_claims(rules.rules),
        *_targets(rules, world),
        *_look_alikes(rules.rules, world),
    ]
    order = {file: number for number, file in enumerate(rules.files)}
    return sorted(found, key=lambda f: (order.get(f.problem.file, 0), f.problem.span))


def _found(
    check: str, rule: Rule, column: int, message: str, hint: str = ""
) -> Finding:
    """A finding about a column (0 to 4) or, from 5 on, a parameter of a rule."""
    words = list(_WORD.finditer(rule.text))
    # Lines of the old form have no service and no argument.
    shift = 2 if words and len(words) > 2 and rule.action in words[2][0] else 0
    at = min(max(0, column - shift), len(words) - 1)
    begin, end = words[at].span() if words else (0, 1)
    span = Span(rule.line, begin + 1, rule.line, end + 1)
    level = CHECKS[check][0]
    problem = Problem(rule.file, span, message, hint=hint, source_line=rule.text)
    return Finding(check, level, problem)


# -- rules without effect ----------------------------------------------------------------


def _without_effect(
    rules: tuple[Rule, ...], world: World, *, instances: bool
) -> Iterator[Finding]:
    known = reach(rules, Atoms(rules, world, instances=instances))
    asks = {rule.service for rule in rules if rule.action == "ask"}
    for number, rule in enumerate(rules):
        if not known.matches[number]:
            text = f"no call matches this rule: {_empty(rule, world)}"
            yield _found("never-matches", rule, 0, text)
        elif not known.decides[number]:
            yield _idle(rules, number, known, offers=bool(asks & {None, rule.service}))


def _empty(rule: Rule, world: World) -> str:
    source = rule.source
    if source.prefix.startswith(DISPVM_OF):
        return f"a source is never '{source.text}'"
    if source.prefix in {"@tag:", "@type:"} and not _has(source, world):
        return f"no source is '{source.text}'"
    return f"no target is '{rule.target.text}'"


def _idle(
    rules: tuple[Rule, ...], number: int, known: Reach, *, offers: bool
) -> Finding:
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
        "redundant": "says the same already",
        "contradictory": f"decides otherwise, so this {rule.action} has no effect",
        "shadowed": "decides all of it",
    }[check]
    text = f"this rule never decides: {where} {words}"
    if offers and rule.action != "deny":
        text += " (it may still add to what an 'ask' offers)"
    return _found(check, rule, 4, text)


# -- names -------------------------------------------------------------------------------


def _has(token: Token, world: World) -> bool:
    """Whether some sandbox has the tag, the type or the name."""
    domains = world.domains.values()
    if token.prefix in {"@tag:", "@dispvm:@tag:"}:
        return any(token.value in domain.tags for domain in domains)
    if token.prefix == "@type:":
        return any(token.value == domain.type for domain in domains)
    if token.key == ADMIN or (token.prefix and token.prefix != DISPVM_OF):
        return True
    return world.name_of(token.value) in world.domains


def _names(rules: tuple[Rule, ...], world: World) -> Iterator[Finding]:
    tags = {tag for domain in world.domains.values() for tag in domain.tags}
    types = {domain.type for domain in world.domains.values()}
    kinds: dict[str, tuple[str, Iterable[str]]] = {
        "@tag:": ("unknown-tag", tags),
        "@dispvm:@tag:": ("unknown-tag", tags),
        "@type:": ("unknown-type", types),
    }
    seen: dict[str, bool] = {}
    hints = 0
    for rule in rules:
        for column, token in _tokens(rule):
            if token.text not in seen:
                seen[token.text] = _has(token, world)
            if seen[token.text]:
                continue
            check, words = kinds.get(token.prefix, ("unknown-sandbox", world.names))
            hints += 1
            near = nearest(token.value, words) if hints <= limits.LINT_HINTS else ""
            hint = f"did you mean '{token.prefix}{near}'?" if near else ""
            text = f"'{token.text}': {CHECKS[check][1]}"
            yield _found(check, rule, column, text, hint)


def _tokens(rule: Rule) -> Iterator[tuple[int, Token]]:
    yield 2, rule.source
    yield 3, rule.target
    for key, token in (
        ("target=", rule.redirect),
        ("default_target=", rule.default_target),
    ):
        if token is not None:
            yield _parameter(rule, key), token


def _parameter(rule: Rule, key: str) -> int:
    """The column of a parameter, counted as words of a whole line."""
    words = rule.text.replace(",", " ").split()
    found = next((n for n, word in enumerate(words) if word.startswith(key)), 4)
    return found + (2 if len(words) > 2 and words[2] == rule.action else 0)


def _look_alikes(rules: tuple[Rule, ...], world: World) -> Iterator[Finding]:
    """Names in rules that a reader takes for another sandbox's."""
    looks: dict[str, str] = {}
    for name in world.names:
        looks.setdefault(look(name), name)
    told: set[str] = set()
    for rule in rules:
        for column, token in _tokens(rule):
            other = looks.get(look(token.value)) if token.literal else None
            if other is None or other == token.value or token.value in told:
                continue
            told.add(token.value)
            text = f"'{token.value}' looks like the sandbox '{other}'"
            yield _found("look-alike", rule, column, text)


# -- doors ------------------------------------------------------------------------------


def _wide(rules: tuple[Rule, ...]) -> Iterator[Finding]:
    for rule in rules:
        if rule.action == "deny" or rule.observe:
            continue
        if rule.target.key == "*" and rule.redirect is None:
            text = f"{rule.action} with target * includes the viewer"
            yield _found("reaches-viewer", rule, 3, text, "@anyvm leaves it out")
        if rule.service is None and rule.action == "allow":
            text = "allow for every service, also for those of later versions"
            yield _found("too-wide", rule, 0, text, "name the services")


def _claims(rules: tuple[Rule, ...]) -> Iterator[Finding]:
    """An ask for a claimed type is escaped by another claim if allow follows."""
    by: dict[tuple[object, ...], list[int]] = {}
    for number, rule in enumerate(rules):
        columns = (rule.service, rule.argument, rule.source.key, rule.target.key)
        by.setdefault(columns, []).append(number)
    for number, rule in enumerate(rules):
        if not rule.match.mime or rule.action != "ask" or rule.observe:
            continue
        for later in _covering(rules, by, number):
            if later.action == "allow" and not later.observe:
                text = (
                    "a sandbox that claims another type is not asked about, but "
                    f"allowed by {later.where}"
                )
                yield _found("claim", rule, _parameter(rule, "mime="), text)
                break
            if later.unconditional:
                break


def _covering(
    rules: tuple[Rule, ...], by: Mapping[tuple[object, ...], list[int]], number: int
) -> Iterator[Rule]:
    """Later rules that plainly match all that a rule matches, in order."""
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


# -- what asks offer ----------------------------------------------------------------------


def _targets(rules: RuleSet, world: World) -> Iterator[Finding]:
    engine = Engine(rules)
    names = [name for name in world.names if name != "dom0"]
    by_key: dict[str, list[str]] = {}
    for name in names:
        for key in world.source_keys(name):
            by_key.setdefault(key, []).append(name)
    denies = any(rule.action == "deny" for rule in rules.rules)
    unsure = {
        rule.service
        for rule in rules.rules
        if rule.action != "deny" and rule.match is not NO_MATCH
    }
    named: dict[str, set[str]] = {}
    for rule in rules.rules:
        if rule.service is not None:
            named.setdefault(rule.service, set())
            if rule.argument is not None:
                named[rule.service].add(rule.argument)
    for number, rule in enumerate(rules.rules):
        sources = by_key.get(rule.source.key, [])
        if rule.action == "deny" or rule.observe or not sources:
            continue
        if rule.redirect is not None and denies:
            yield from _redirect(engine, number, sources, world)
        # Under conditions of other rules more may be offered: nothing is said.
        more = unsure and (rule.service is None or unsure & {None, rule.service})
        if rule.action == "ask" and not more:
            yield from _asks(engine, rule, _Calls(rule, sources, named), world)


class _Calls:
    """The calls that a rule is about, one for each class, meeting its conditions."""

    def __init__(
        self, rule: Rule, sources: list[str], named: dict[str, set[str]]
    ) -> None:
        self._rule = rule
        self._sources = sources
        self._named = named

    def __iter__(self) -> Iterator[Call]:
        """First those for what no rule names, which are the most usual."""
        rule = self._rule
        services = [rule.service] if rule.service else [_ANY, *self._named]
        for service in services:
            more = sorted(self._named.get(service, ()))
            for argument in (
                [rule.argument] if rule.argument else [_ANY_ARGUMENT, *more]
            ):
                for source in self._sources:
                    yield _call(rule, service, argument, source)


_ANY = "any.Service"
_ANY_ARGUMENT = "+any"


def _call(rule: Rule, service: str, argument: str, source: str) -> Call:
    match = rule.match
    host = match.host[0].replace("*.", "x.", 1) if match.host else ""
    return Call(
        service,
        argument,
        source,
        DEFAULT,
        match.mime[0].replace("*", "x") if match.mime else None,
        match.scheme[0] if match.scheme else "",
        host,
    )


def _redirect(
    engine: Engine, number: int, sources: list[str], world: World
) -> Iterator[Finding]:
    rule = engine.rules[number]
    assert rule.redirect is not None
    for source in sources[: limits.LINT_SOURCES]:
        call = _call(rule, rule.service or _ANY, rule.argument or _ANY_ARGUMENT, source)
        deny = engine.denied_before(call, rule.redirect.text, number, world)
        if deny is not None:
            text = f"'{call.source}' is denied '{rule.redirect.text}' by {deny.where}"
            yield _found("redirect-denied", rule, _parameter(rule, "target="), text)
            return


def _asks(engine: Engine, rule: Rule, calls: _Calls, world: World) -> Iterator[Finding]:
    soon = itertools.islice(calls, limits.LINT_SOURCES)
    if not any(_offers_soon(engine, rule, call, world) for call in soon) and not any(
        engine.offered(call, rule, world) for call in calls
    ):
        text = "this 'ask' never has a target to offer, so it is a deny"
        yield _found("ask-nothing", rule, 4, text)
        return
    default = rule.default_target
    if default is None or any(_default(engine, rule, call, world) for call in calls):
        return
    text = f"'{default.text}' is never among the targets that are offered"
    column = _parameter(rule, "default_target=")
    yield _found("default-not-offered", rule, column, text)


def _offers_soon(engine: Engine, rule: Rule, call: Call, world: World) -> bool:
    """Whether a target is surely offered, seen without collecting all."""
    for tried, target in enumerate(expand(rule.redirect or rule.target, world)):
        if tried == limits.LINT_SOURCES:
            return False
        if engine.surely_offered(call, target, rule, world):
            return True
    return False


def _default(engine: Engine, rule: Rule, call: Call, world: World) -> bool:
    token = rule.default_target
    assert token is not None
    final = world.template(call.source) if token.text == DISPVM else token.text
    if token.key == ADMIN:
        final = "dom0"
    if final is not None and final.startswith(DISPVM_OF):
        final = DISPVM_OF + world.name_of(final.removeprefix(DISPVM_OF))
    return engine.offers(call, rule, world.name_of(final or ""), world)
