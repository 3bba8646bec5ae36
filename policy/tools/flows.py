"""Permitted flows between sandboxes: the arrows of a picture.

An arrow represents all that one sandbox may have of another (or of the user
at the viewer), by any rule.  A denied call has no arrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from policy.names import ADMIN_NAMES
from policy.rules.ruleset import RuleSet
from policy.rules.world import DEFAULT, DISPVM, World
from policy.tools.diff import OTHER_ARGUMENT, OTHER_SERVICE
from policy.tools.effective import EffectiveCall, grants, told_facts

ANY_SERVICE = "anything else"


class Flow(NamedTuple):
    """One thing that an arrow represents.

    ``verdict`` is allow or ask; ``told`` the facts that the call must state, as
    ``scheme=https``; ``unnamed``: only when the caller names no target.
    """

    source: str
    target: str
    service: str
    verdict: str
    told: str
    where: str
    unnamed: bool


def flows(
    rules: RuleSet,
    world: World,
    *,
    permitted: Callable[[list[EffectiveCall]], list[EffectiveCall]] = list,
    sandboxes: Iterable[str] = (),
    services: Iterable[str] = (),
) -> list[Flow]:
    """Return every flow, in order; raises TooManyError.

    ``permitted`` leaves out what the records deny, where records are known.
    ``sandboxes`` and ``services`` keep only those that have to do with any of
    these; empty keeps all.
    """
    near, named = set(sandboxes), {rule.service for rule in rules.rules}
    # A service that no rule names is decided as any other such service.
    wanted = {one if one in named else ANY_SERVICE for one in services}
    found: set[Flow] = set()
    for source in world.names:
        for grant in permitted(grants(rules, world, source)):
            found.update(_flows_of(grant, world))
    return sorted(
        flow
        for flow in found
        if (not near or near & {flow.source, flow.target.removeprefix("@dispvm:")})
        and (not wanted or flow.service.partition("+")[0] in wanted)
    )


def _flows_of(grant: EffectiveCall, world: World) -> Iterable[Flow]:
    """Yield the arrows from a source to the targets that a grant reaches."""
    call, answer = grant.call, grant.answer
    if answer.verdict == "ask":
        # The targets that a user may choose, whatever was called.
        reached, unnamed = answer.targets, set(grant.targets) == {DEFAULT}
    elif answer.rule is not None and answer.rule.redirect is not None:
        reached, unnamed = (answer.target or "",), set(grant.targets) == {DEFAULT}
    else:
        # Each of the class is reached itself.
        reached, unnamed = grant.targets, False
    service = ANY_SERVICE if call.service == OTHER_SERVICE else call.service
    if call.service != OTHER_SERVICE and call.argument not in {"+", OTHER_ARGUMENT}:
        service += call.argument
    fresh = world.template(call.source) or ""
    for target in _names(fresh if one == DISPVM else one for one in reached):
        if target not in {DEFAULT, call.source, ""}:
            yield Flow(
                call.source,
                target,
                service,
                answer.verdict,
                " ".join(told_facts(call)),
                answer.where,
                unnamed,
            )


def _names(targets: Iterable[str]) -> list[str]:
    return ["dom0" if target in ADMIN_NAMES else target for target in targets]
