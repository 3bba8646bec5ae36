"""Recorded decisions asked again: of the rules as they are, or as they would be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from policy.names import ADMIN_NAMES
from policy.rules.engine import Engine, PolicyAnswer
from policy.rules.ruleset import RuleSet
from policy.rules.world import DISPVM_OF, World
from policy.tools.calls import Sandboxes
from policy.tools.recorded import (
    NoRuleError,
    NotReplayableError,
    Recorded,
    number_of,
    recorded,
)


class Again(NamedTuple):
    """The result of a recorded decision now."""

    then: Recorded
    now: PolicyAnswer

    @property
    def changed(self) -> bool:
        """Return whether something else would be decided."""
        if self.then.verdict != self.now.verdict:
            return True
        went = self.now.verdict == "allow" and self.then.target
        return bool(went) and _plain(self.then.target) != _plain(self.now.target or "")


def _plain(target: str) -> str:
    return "dom0" if target in ADMIN_NAMES else target


def ask_again(
    then: Recorded,
    rules: RuleSet,
    engine: Engine,
    world: World,
    sandboxes: Sandboxes | None = None,
) -> Again:
    """Evaluate a recorded call with the current rules.  Raises NotReplayableError."""
    call = then.call
    if call.source not in world.domains and call.source not in ADMIN_NAMES:
        raise NotReplayableError("the record of the sandbox no longer exists")
    named = call.target.removeprefix(DISPVM_OF)
    special = not named or named.startswith("@") or named in ADMIN_NAMES
    if not special and named not in world.domains:
        raise NotReplayableError("the record of the target no longer exists")
    if then.host_dropped and any(
        rule.match.host and rule.service in {None, call.service} for rule in rules.rules
    ):
        raise NotReplayableError("the host was not stored, but a rule depends on it")
    if call.device is not None and any(
        "serial" in dict(rule.match.device.conditions)
        for rule in rules.rules
        if rule.service in {None, call.service}
    ):
        raise NotReplayableError(
            "the serial number was not stored, but a rule depends on it"
        )
    answer = engine.answer(call, world)
    if sandboxes is not None:
        answer = sandboxes.decide(call, partial(engine.answer, call, world)).answer
    if answer.rule is not None and not answer.rule.autostart:
        raise NotReplayableError(
            "the rule depends on which sandboxes were running, which is not recorded"
        )
    return Again(then, answer)


class Group(NamedTuple):
    """Decisions that change in the same way."""

    source: str
    service: str
    target: str
    then: str
    now: str
    where: str


@dataclass
class Simulation:
    """All of a time asked again; counts are of decisions, not of events.

    ``changes`` has how many, and the number of one event; ``skipped`` counts
    what cannot be replayed by reason, ``others`` what no rule decided.
    """

    same: int = 0
    changes: dict[Group, tuple[int, int]] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)

    @property
    def changed(self) -> int:
        """Decisions that would be others."""
        return sum(count for count, _ in self.changes.values())

    def add(self, other: Simulation) -> None:
        """Add the counts of another log's replay."""
        self.same += other.same
        self.skipped += other.skipped
        self.others += other.others
        for group, (count, number) in other.changes.items():
            before, first = self.changes.get(group, (0, number))
            self.changes[group] = (before + count, first)


def simulate(
    events: Iterable[Mapping[str, object]],
    rules: RuleSet,
    world: World,
    *,
    sandboxes: Sandboxes | None = None,
) -> Simulation:
    """Evaluate all these events' decisions again, by rules and (if given) records."""
    engine, simulation = Engine(rules), Simulation()
    for event in events:
        count = max(1, number_of(event, "count"))
        try:
            then = recorded(event)
            again = ask_again(then, rules, engine, world, sandboxes)
        except NoRuleError as error:
            simulation.others[str(error)] += count
            continue
        except NotReplayableError as error:
            simulation.skipped[str(error)] += count
            continue
        if not again.changed:
            simulation.same += count
            continue
        group = _group(again)
        before, _ = simulation.changes.get(group, (0, 0))
        simulation.changes[group] = (before + count, then.sequence)
    return simulation


def _group(again: Again) -> Group:
    """Return the group by which a decision is counted: what changed, and how."""
    then, now = again.then, again.now
    call = then.call
    was = (
        f"{then.verdict} to {then.target}" if then.verdict == "allow" else then.verdict
    )
    will = f"allow to {now.target}" if now.verdict == "allow" else now.verdict
    argument = "" if call.argument == "+" else call.argument
    return Group(
        call.source, call.service + argument, call.target, was, will, now.where
    )
