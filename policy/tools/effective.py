"""Effective permissions of one sandbox, and of others towards it.

By the classes of ``diff``: one call of each class is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from policy.rules.engine import Engine, PolicyAnswer, PolicyCall
from policy.rules.ruleset import RuleSet
from policy.rules.world import World
from policy.tools import limits as tool_limits
from policy.tools.diff import TooManyError, classes, is_possible, outcome


class EffectiveCall(NamedTuple):
    """A call that is not denied; ``targets`` are all that are treated the same."""

    call: PolicyCall
    targets: tuple[str, ...]
    answer: PolicyAnswer

    def answer_of_rules(self) -> PolicyAnswer:
        """Return the answer, for those who ask the record first."""
        return self.answer


TOLD = ("mime", "scheme", "host", "protocol", "port", "key")
"""Facts of a call that are shown as they are."""


def told_facts(call: PolicyCall) -> list[str]:
    """Return the facts that a call states, as ``scheme=https`` or ``no host``.

    A fact that is not stated differs from none: a deny with such a condition
    decides where the fact is not known.
    """
    stated = ((key, getattr(call, key)) for key in TOLD)
    return [
        f"{key}={value}" if value else f"no {key}"
        for key, value in stated
        if value is not None
    ]


def grants(rules: RuleSet, world: World, source: str) -> list[EffectiveCall]:
    """Return what a source is allowed or asked about; raises TooManyError."""
    return list(_asked(rules, world, (source,), None))


def grants_to(rules: RuleSet, world: World, target: str) -> list[EffectiveCall]:
    """Return what others may ask of a target by its name; raises TooManyError."""
    others = tuple(name for name in world.names if name != target)
    return list(_asked(rules, world, others, target))


def _without(
    parts: tuple[tuple[str, ...], ...], source: str
) -> Iterator[tuple[str, ...]]:
    """Return the classes of targets; a call to itself is a separate class.

    Nothing ever allows one, but an 'ask' may offer others for it.
    """
    for part in parts:
        others = tuple(name for name in part if name != source)
        if others:
            yield others
        if len(others) < len(part):
            yield (source,)


def _asked(
    rules: RuleSet, world: World, sources: tuple[str, ...], only: str | None
) -> Iterator[EffectiveCall]:
    """Yield each class of calls with its answer; raises TooManyError."""
    found = classes(rules.rules, world)
    parts = ((only,),) if only is not None else found.targets
    told = sum(len(found.told[service]) for service, _ in found.services)
    asked = len(sources) * told * len(parts)
    if asked > tool_limits.DIFF_CALLS:
        raise TooManyError(
            f"{asked} calls exceed the limit of {tool_limits.DIFF_CALLS}"
        )
    engine = Engine(rules)
    for (service, argument), source in product(found.services, sources):
        made: dict[object, EffectiveCall] = {}
        any_flow: dict[object, object] = {}
        for part, match in product(_without(parts, source), found.told[service]):
            if not is_possible(service, part):
                continue
            words = (
                *(match.mime, match.scheme, match.host, None),
                *(match.device, match.protocol, match.port, match.key),
            )
            call = PolicyCall(service, argument, source, part[0], *words)
            answer = engine.answer(call, world)
            decision = (answer.where, outcome(answer))
            first = any_flow.setdefault((part, match.without_flow()), decision)
            repeated = match.protocol is not None and first == decision
            if repeated or answer.verdict == "deny":
                continue
            # An allow goes to each member itself; other answers are the same.
            same = (words, answer.where, outcome(answer)[2:], answer.verdict)
            before = made.get(same)
            targets = (*before.targets, *part) if before else part
            made[same] = EffectiveCall(before.call if before else call, targets, answer)
        yield from made.values()
