"""Lint of the choices of asks and of redirect targets, by queries to the engine.

For each ask one call of each class of sources is tried; two sources are of one
class when no rule about the service distinguishes them.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from policy.destinations import port_ranges
from policy.names import ADMIN
from policy.rules.conditions import NO_MATCH
from policy.rules.engine import PolicyCall, expand
from policy.rules.rule import Rule
from policy.rules.ruleset import RuleSet
from policy.rules.tokens import Token
from policy.rules.world import DEFAULT, DISPVM, DISPVM_OF, World
from policy.tools import limits as tool_limits
from policy.tools.device_example import example
from policy.tools.linting.finding import found_in, parameter, tokens_of
from policy.tools.linting.offers import OfferingEngine
from policy.tools.linting.sarif import LintFinding


def lint_asks(rules: RuleSet, world: World) -> Iterator[LintFinding]:
    """Yield findings about what rules redirect to and what asks offer."""
    engine = OfferingEngine(rules)
    names = [name for name in world.names if name != "dom0"]
    by_key: dict[str, list[str]] = {}
    for name in names:
        for key in world.source_keys(name):
            by_key.setdefault(key, []).append(name)
    classes = _Classes(engine, world)
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
        # Under conditions of other rules more may be offered: nothing is reported.
        more = unsure and (rule.service is None or unsure & {None, rule.service})
        if rule.action == "ask" and not more:
            calls = _Calls(rule, sources, named, classes)
            yield from _asks(engine, rule, calls, classes, world)


class _Classes:
    """Sources that no rule about a service distinguishes: one represents all.

    ``left`` is how many more calls may be looked at, so that no set of rules
    takes too long; calls that were skipped get no finding.
    """

    def __init__(self, engine: OfferingEngine, world: World) -> None:
        """Set up the queries to an engine, with a bound on their number."""
        self.left = tool_limits.LINT_CALLS
        self._engine = engine
        self._world = world
        self._offered: dict[PolicyCall, AbstractSet[str]] = {}
        self._some: dict[tuple[str, str], list[str]] = {}
        self.nothing: dict[object, bool] = {}
        """Whether asks that are about the same offer nothing."""
        self._used: dict[str | None, set[str]] = {None: set()}
        self._rules: Counter[str | None] = Counter()
        for rule in engine.rules:
            self._rules[rule.service] += 1
            used = self._used.setdefault(rule.service, set())
            used.update(token.key for _, token in tokens_of(rule))

    def offered(self, call: PolicyCall, rule: Rule) -> AbstractSet[str]:
        """Return a call's offered targets; asks without target= share the result."""
        if rule.redirect is not None:
            self.left -= 1
            return self._engine.offered(call, rule, self._world)
        found = self._offered.get(call)
        if found is None:
            self._spend(call)
            found = self._engine.offered(call, rule, self._world)
            if len(self._offered) < tool_limits.LINT_OFFERS:
                self._offered[call] = found
        return found

    def offers(self, call: PolicyCall, rule: Rule, target: str) -> bool:
        """Return whether a target is offered for a call."""
        if call in self._offered or self._about(call) > tool_limits.LINT_SOURCES:
            return target in self.offered(call, rule)
        self._spend(call)
        return self._engine.offers(call, rule, target, self._world)

    def _about(self, call: PolicyCall) -> int:
        return self._rules[None] + self._rules[call.service]

    def _spend(self, call: PolicyCall) -> None:
        """A call costs with the rules about its service."""
        self.left -= 1 + self._about(call) // tool_limits.LINT_SOURCES

    def some(self, service: str, key: str, sources: list[str]) -> list[str]:
        """Return one source of each class among those that a key matches."""
        if len(sources) <= tool_limits.LINT_SOURCES:
            return sources
        made = self._some.get((service, key))
        if made is None:
            made = self._firsts(service, sources)
            if len(self._some) < tool_limits.LINT_OFFERS:
                self._some[service, key] = made
        return made

    def _firsts(self, service: str, sources: list[str]) -> list[str]:
        """Return the first source of each class that rules for a service tell apart."""
        world = self._world
        used = self._used[None] | self._used.get(service, set())
        told: dict[str, list[str]] = {}
        for key in sorted(used - {"*", "@anyvm"}):
            for name in world.matched(key):
                told.setdefault(name, []).append(key)
        firsts: dict[object, str] = {}
        for name in sources:
            same = (tuple(told.get(name, ())), world.domains[name].default_dispvm)
            firsts.setdefault(same, name)
        return list(firsts.values())


class _Calls:
    """The calls that a rule is about, meeting its conditions."""

    def __init__(
        self,
        rule: Rule,
        sources: list[str],
        named: dict[str, set[str]],
        classes: _Classes,
    ) -> None:
        """Set up the calls that reach one rule."""
        self._rule = rule
        self._sources = sources
        self._named = named
        self._classes = classes

    def of_each_class(self) -> Iterator[PolicyCall]:
        """Yield one call of each class; ends early when too many were tried."""
        for service, argument in self._about():
            for source in self._classes.some(
                service, self._rule.source.key, self._sources
            ):
                if self._classes.left < 0:
                    return
                yield _call(self._rule, service, argument, source)

    @property
    def complete(self) -> bool:
        """Return whether every class could be looked at."""
        return self._classes.left >= 0

    def __iter__(self) -> Iterator[PolicyCall]:
        """All of them."""
        for service, argument in self._about():
            for source in self._sources:
                yield _call(self._rule, service, argument, source)

    def _about(self) -> Iterator[tuple[str, str]]:
        """Yield services and arguments, those that no rule names first."""
        rule = self._rule
        services = [rule.service] if rule.service else [_ANY, *self._named]
        for service in services:
            more = sorted(self._named.get(service, ()))
            for argument in (
                [rule.argument] if rule.argument else [_ANY_ARGUMENT, *more]
            ):
                yield service, argument


_ANY = "any.Service"
_ANY_ARGUMENT = "+any"


def _call(rule: Rule, service: str, argument: str, source: str) -> PolicyCall:
    """Build a call that fulfils a rule's conditions."""
    match = rule.match
    host = match.host[0].replace("*.", "x.", 1) if match.host else ""
    return PolicyCall(
        service,
        argument,
        source,
        DEFAULT,
        match.mime[0].replace("*", "x") if match.mime else None,
        match.scheme[0] if match.scheme else "",
        host,
        None,
        example(match.device) if match.device.conditions else None,
        match.protocol[0] if match.protocol else "tcp" if match.port else None,
        port_ranges(match.port)[0].start if match.port else None,
        match.key[0] if match.key else None,
    )


def _redirect(
    engine: OfferingEngine, number: int, sources: list[str], world: World
) -> Iterator[LintFinding]:
    """Yield a finding where an earlier rule denies a redirect's target."""
    rule = engine.rules[number]
    assert rule.redirect is not None
    for source in sources[: tool_limits.LINT_SOURCES]:
        call = _call(rule, rule.service or _ANY, rule.argument or _ANY_ARGUMENT, source)
        deny = engine.denied_before(call, rule.redirect.text, number, world)
        if deny is not None:
            text = f"{deny.where} denies calls from '{call.source}' to '{rule.redirect.text}'"
            yield found_in("redirect-denied", rule, parameter(rule, "target="), text)
            return


def _asks(
    engine: OfferingEngine, rule: Rule, calls: _Calls, classes: _Classes, world: World
) -> Iterator[LintFinding]:
    """Yield findings about an ask: nothing to choose from, or a default not offered."""
    same = (rule.service, rule.argument, rule.source.key, rule.match, rule.redirect)
    nothing = classes.nothing.get(same)
    if nothing is None:
        soon = itertools.islice(calls, tool_limits.LINT_TRIES)
        nothing = not any(
            _offers_soon(engine, rule, call, world) for call in soon
        ) and not any(classes.offered(call, rule) for call in calls.of_each_class())
        # With a redirect it depends on the rule's place.
        if calls.complete and rule.redirect is None:
            classes.nothing[same] = nothing
    if nothing:
        if calls.complete:
            text = (
                "this 'ask' never has a target to offer, so the answer is always deny"
            )
            yield found_in("ask-nothing", rule, 4, text)
        return
    default = rule.default_target
    if default is None or any(
        classes.offers(call, rule, _meant(default, call, world))
        for call in calls.of_each_class()
    ):
        return
    if calls.complete:
        text = f"'{default.text}' is never among the offered targets"
        column = parameter(rule, "default_target=")
        yield found_in("default-not-offered", rule, column, text)


def _offers_soon(
    engine: OfferingEngine, rule: Rule, call: PolicyCall, world: World
) -> bool:
    """Return whether a target is surely offered, without collecting all."""
    for tried, target in enumerate(expand(rule.redirect or rule.target, world)):
        if tried == tool_limits.LINT_TRIES:
            return False
        if engine.surely_offered(call, target, rule, world):
            return True
    return False


def _meant(token: Token, call: PolicyCall, world: World) -> str:
    """Return a default target in the form in which an 'ask' names its targets."""
    final = world.template(call.source) if token.text == DISPVM else token.text
    if token.key == ADMIN:
        final = "dom0"
    if final is not None and final.startswith(DISPVM_OF):
        return DISPVM_OF + world.name_of(final.removeprefix(DISPVM_OF))
    return world.name_of(final or "")
