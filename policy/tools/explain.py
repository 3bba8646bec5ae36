"""The reasons of an answer: every earlier rule, the nearest miss, a flip.

Unlike the engine this walks over all rules, because it states for each one why it did
not decide.  A flip is tried before it is shown: the line is put in, and the engine is
asked again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from policy.errors import visible
from policy.records.device import DeviceFacts
from policy.records.device_json import device_json
from policy.rules.conditions import DEVICE_KEYS
from policy.rules.engine import Engine, PolicyAnswer, PolicyCall, holds, intended
from policy.rules.grammar import Form, parse_lines
from policy.rules.rule import Rule
from policy.rules.ruleset import RuleSet
from policy.rules.tokens import Token
from policy.rules.world import DEFAULT, DISPVM, World
from policy.tools.linting.unknown import meant_service

COLUMNS = ("service", "argument", "source", "target", "condition", "mode")


class Miss(NamedTuple):
    """A rule that did not decide: the first column that failed, and why."""

    rule: Rule
    column: str
    why: str

    @property
    def near(self) -> int:
        """Columns that did match."""
        return COLUMNS.index(self.column)


class Flip(NamedTuple):
    """A line that would turn the answer around, and where it belongs.

    ``before`` is the rule that it must precede; None: anywhere.
    """

    text: str
    before: Rule | None
    verdict: str


@dataclass(frozen=True)
class Explanation:
    """An answer with its reasons."""

    call: PolicyCall
    answer: PolicyAnswer
    misses: tuple[Miss, ...]
    nearest: Miss | None
    flip: Flip | None


def explain(rules: RuleSet, call: PolicyCall, world: World) -> Explanation:
    """Explain the engine's answer to a call: rules that missed, what would flip it."""
    engine = Engine(rules)
    call = call._replace(source=world.name_of(call.source))
    answer = engine.answer(call, world)
    target = intended(call.target, world)
    misses: list[Miss] = []
    later: list[Miss] = []
    found = misses
    for rule in rules.rules if target is not None else ():
        if rule is answer.rule:
            found = later
            continue
        miss = _miss(rule, call, target or DEFAULT, world)
        if miss is not None:
            found.append(miss)
    return Explanation(
        call,
        answer,
        tuple(misses),
        _nearest(answer, [*misses, *later]),
        _flip(rules, call, answer, world),
    )


# -- misses ---------------------------------------------------------------------------


def _miss(rule: Rule, call: PolicyCall, target: str, world: World) -> Miss | None:
    """Return why a rule does not decide; None when it would."""
    if rule.service not in {None, call.service}:
        return Miss(rule, "service", f"'{visible(call.service)}' is not {rule.service}")
    if rule.argument not in {None, call.argument}:
        return Miss(
            rule, "argument", f"'{visible(call.argument)}' is not {rule.argument}"
        )
    if rule.source.key not in world.source_keys(call.source):
        return Miss(rule, "source", _unlike(rule.source, call.source, world))
    if rule.target.key not in world.target_keys(target, call.source):
        return Miss(rule, "target", _unlike(rule.target, target, world))
    failed = holds(rule, call)
    if failed in DEVICE_KEYS:
        return Miss(rule, "condition", _unlike_device(rule, call.device, failed))
    if failed:
        told = getattr(call, failed)
        value = "is unknown" if told is None else f"is '{visible(told)}'"
        wanted = ",".join(getattr(rule.match, failed))
        return Miss(rule, "condition", f"{failed} {value}, not {wanted}")
    if rule.observe:
        return Miss(
            rule, "mode", "the rule matches, but does not decide with mode=observe"
        )
    return None


def _unlike_device(rule: Rule, device: DeviceFacts | None, failed: str) -> str:
    """Return how a device differs from the first condition of a rule that fails."""
    if device is None:
        return f"{failed}: the call has no device"
    wanted = dict(rule.match.device.conditions).get(failed)
    if not rule.match.device.fails(device):
        what = rule.match.device.unnamed(device, any_hid=True)
        return f"the rule does not name the interface {what} (a hub, or possibly a keyboard)"
    if failed in {"with-interface", "class"}:
        has = ",".join(map(str, device.interfaces)) or "none"
    else:
        has = f"'{visible(str(getattr(device, failed)))}'"
    return f"{failed} is {has}, not {wanted}"


def _unlike(token: Token, name: str, world: World) -> str:
    """Return in words why a token does not match a name."""
    shown = "no target" if name == DEFAULT else f"'{visible(name)}'"
    domain = world.domains.get(name)
    if token.key == "@anyvm":
        return f"{shown} is the viewer, which @anyvm excludes"
    if token.prefix == "@tag:":
        tags = ", ".join(sorted(domain.tags)) if domain else ""
        has = f"it has {tags}" if tags else "it has no tags"
        return f"{shown} does not have the tag {token.value} ({has})"
    if token.prefix == "@type:":
        kind = domain.type if domain else "no sandbox"
        return f"{shown} is {kind}, not {token.value}"
    return f"{shown} is not {token.text}"


def _nearest(answer: PolicyAnswer, misses: list[Miss]) -> Miss | None:
    """Return the rule of another verdict that came closest; the first of several."""
    other = [
        miss
        for miss in misses
        if (miss.rule.action == "deny") != (answer.verdict == "deny") and miss.near > 0
    ]
    return max(other, key=lambda miss: miss.near, default=None)


# -- flips ----------------------------------------------------------------------------


def _flip(
    rules: RuleSet, call: PolicyCall, answer: PolicyAnswer, world: World
) -> Flip | None:
    """Find a rule line that changes the answer; None if none exists."""
    if meant_service(call.service) is not None:
        return None  # a line for a service that does not exist has no effect
    target = "@default" if not call.target else call.target
    if intended(call.target, world) == DEFAULT:
        target = DEFAULT
    columns = f"{call.service} {call.argument} {call.source} {target}"
    tries = ["deny"]
    if answer.verdict == "deny":
        tries = ["allow", "ask"]
        if target == DEFAULT:
            tries = ["ask", f"allow target={DISPVM}"]
    for action in tries:
        text = f"{columns} {action}"
        new = parsed(text)
        if new is None:
            continue
        flipped = Engine(with_rule(rules, new, answer.rule)).answer(call, world)
        if (flipped.verdict == "deny") != (answer.verdict == "deny"):
            return Flip(text, answer.rule, flipped.verdict)
    return None


def parsed(text: str) -> Rule | None:
    """Return the rule of a line; None for another text."""
    problems: list[object] = []
    found = list(parse_lines("new", text.encode(), Form(), problems.append))
    if problems or len(found) != 1 or not isinstance(found[0], Rule):
        return None
    return found[0]


def with_rule(rules: RuleSet, new: Rule, before: Rule | None) -> RuleSet:
    """Return a set with one more rule: before another, or at the end."""
    made = list(rules.rules)
    at = next((n for n, rule in enumerate(made) if rule is before), len(made))
    made.insert(at, new)
    return replace(rules, rules=tuple(made))


def call_json(call: PolicyCall) -> dict[str, object]:
    """Return a call's attributes as JSON values; those not given are left out.

    A fact that is empty is given: the call states that none exists.
    """
    told: dict[str, object] = call._asdict()
    if call.device is not None:
        told["device"] = device_json(call.device)
    return {
        key: value
        for key, value in told.items()
        if value is not None and (value != "" or key in {"mime", "scheme", "host"})
    }


def as_json(found: Explanation) -> dict[str, object]:
    """Convert an explanation to JSON values."""
    return {
        **answer_json(found.answer),
        "misses": [_miss_json(miss) for miss in found.misses],
        "nearest": _miss_json(found.nearest) if found.nearest else None,
        "flip": {
            "rule": found.flip.text,
            "before": found.flip.before.where if found.flip.before else None,
            "decision": found.flip.verdict,
        }
        if found.flip
        else None,
        "trace": [step._asdict() for step in found.answer.trace],
        "observed": [rule.where for rule in found.answer.observed],
    }


def _miss_json(miss: Miss) -> dict[str, object]:
    """Convert a near miss to JSON values."""
    return {
        "file": miss.rule.file,
        "line": miss.rule.line,
        "rule": miss.rule.text,
        "column": miss.column,
        "why": miss.why,
    }


def answer_json(answer: PolicyAnswer) -> dict[str, object]:
    """Return an answer as ``brokerctl policy eval`` prints it."""
    granted = answer.verdict in {"allow", "ask"}
    fields: dict[str, object] = {
        "decision": answer.verdict,
        "file": answer.rule.file if answer.rule else None,
        "line": answer.rule.line if answer.rule else None,
        "target": answer.target,
        "targets": list(answer.targets) if answer.verdict == "ask" else None,
        "default_target": answer.default_target,
        "user": answer.user if granted else None,
        "autostart": answer.autostart if granted else None,
        "notify": answer.notify,
        "reason": answer.reason,
    }
    if granted and answer.rule is not None and answer.rule.attach:
        fields["attach"] = answer.rule.attach
    if granted and answer.limits.as_json():
        fields["limits"] = answer.limits.as_json()
    return fields
