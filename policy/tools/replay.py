"""Recorded decisions asked again: of the rules as they are, or as they would be.

A record of a decision has the question, except for values that were hashed or dropped
on purpose.  Missing attributes are not guessed: such a decision counts as not
replayable, and says why.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from policy.names import ADMIN_NAMES
from policy.records.device import DeviceFacts, take_interface
from policy.rules.engine import Engine, PolicyAnswer, PolicyCall
from policy.rules.ruleset import RuleSet
from policy.rules.world import DISPVM_OF, World
from policy.tools.calls import Sandboxes

_HASHED = "hmac:"
_DROPPED = "(dropped)"
_OF_RULES = re.compile(
    r"denied by |no rule matches, so|[0-9]+ bytes; .* allows [0-9]+$|"
    r"'.*' is not a (?:valid target|target to call)$|"
    r"an argument (?:must begin|begins) with '\+'$|"
    r".*:[0-9]+ (?:allows, but |asks, but there is no target |has an error, so )",
    re.DOTALL,
)


def of_rules(reason: str) -> bool:
    """Return whether a deny came from the rules, judging by its recorded reason.

    Other reasons come from limits, records and questions.
    """
    return _OF_RULES.match(reason) is not None


class NotReplayableError(Exception):
    """The event lacks attributes; the text names them."""


class NoRuleError(NotReplayableError):
    """Not the rules decided, but a record, a limit or a grant's end."""


@dataclass(frozen=True)
class Recorded:
    """A decision as it was recorded.

    ``verdict`` is that of the rules: ask where the user was asked then.
    ``rule`` is its place, ``policy`` the digest of the rules, ``count`` how
    many equal ones the event represents.
    """

    sequence: int
    call: PolicyCall
    verdict: str
    target: str
    rule: str
    policy: str
    reason: str
    count: int
    host_dropped: bool


def recorded(event: Mapping[str, object], *, limits_of: str = "") -> Recorded:
    """Return the decision of an event's fields; raises NotReplayableError.

    ``limits_of`` is a file of rules whose limits are taken for denials of rules.
    """
    if event.get("kind") != "decision":
        raise NoRuleError("not a decision")
    raw = event.get("detail")
    detail: Mapping[str, object] = raw if isinstance(raw, Mapping) else {}
    rule, reason = _text(event, "rule"), _text(event, "reason")
    verdict = _text(event, "verdict")
    if event.get("outcome") == "cut":
        raise NoRuleError("the end of a permitted stream")
    if event.get("answered_by") or event.get("question"):
        # If the record made an ask of it, the rules had allowed.
        verdict = "allow" if detail.get("record-asks") else "ask"
    elif (
        verdict == "deny"
        and not of_rules(reason)
        and not (limits_of and f"/{limits_of}:" in rule)
    ):
        raise NoRuleError("denied by a record or a limit")
    if "asked" not in detail:
        raise NoRuleError("decided only by a record")
    size = detail.get("size")
    host = _text(event, "object")
    # Older logs say only that there was a host.
    dropped = bool(detail.get("host-dropped"))
    dropped = dropped or host.startswith(_HASHED) or host == _DROPPED
    call = PolicyCall(
        _known(_text(event, "service"), "service"),
        _known(
            _text(event, "argument") or _text(detail, "argument") or "+", "argument"
        ),
        # What the user gives has the user as its source; the sandbox receives it.
        _known(_text(detail, "source") or _text(event, "sandbox"), "sandbox"),
        _known(_text(detail, "asked"), "target"),
        _maybe(detail, "mime"),
        _maybe(detail, "scheme"),
        None if dropped or not host else _known(host, "host"),
        size if isinstance(size, int) else None,
        _device(detail),
        _maybe(detail, "protocol"),
        port if isinstance(port := detail.get("port"), int) else None,
        _maybe(detail, "key"),
    )
    return Recorded(
        _number(event, "sequence"),
        call,
        verdict,
        _text(event, "target"),
        rule,
        _text(event, "policy"),
        reason,
        _number(event, "count") or 1,
        dropped,
    )


def _device(detail: Mapping[str, object]) -> DeviceFacts | None:
    """Return the device of a recorded decision, if it was about one."""
    if "device-port" not in detail:
        return None
    kinds = detail.get("device-interfaces")
    found = (
        [take_interface(str(kind)) for kind in kinds] if isinstance(kinds, list) else []
    )
    return DeviceFacts(
        id=_text(detail, "device-id"),
        port=_text(detail, "device-port"),
        hash=_text(detail, "device-hash"),
        interfaces=tuple(kind for kind in found if kind is not None),
    )


def _text(fields: Mapping[str, object], key: str) -> str:
    value = fields.get(key, "")
    return value if isinstance(value, str) else ""


def _number(fields: Mapping[str, object], key: str) -> int:
    value = fields.get(key, 0)
    return value if isinstance(value, int) else 0


def _maybe(fields: Mapping[str, object], key: str) -> str | None:
    return _known(_text(fields, key), key) if key in fields else None


def _known(text: str, what: str) -> str:
    """Return a recorded word; raises NotReplayableError where it was changed."""
    if text.startswith(_HASHED):
        raise NotReplayableError(f"the {what} was stored as a hash")
    if text == _DROPPED:
        raise NotReplayableError(f"the {what} was not stored")
    # How hostile text is made printable and short where it is recorded.
    if "\\" in text or text.endswith(("...", "…")):
        raise NotReplayableError(f"the {what} was stored shortened or escaped")
    return text


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
    engine, found = Engine(rules), Simulation()
    for event in events:
        count = max(1, _number(event, "count"))
        try:
            then = recorded(event)
            again = ask_again(then, rules, engine, world, sandboxes)
        except NoRuleError as error:
            found.others[str(error)] += count
            continue
        except NotReplayableError as error:
            found.skipped[str(error)] += count
            continue
        if not again.changed:
            found.same += count
            continue
        group = _group(again)
        before, _ = found.changes.get(group, (0, 0))
        found.changes[group] = (before + count, then.sequence)
    return found


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
