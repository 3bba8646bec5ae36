"""Whether programs of a box or container use the sandbox's portal."""

from __future__ import annotations

from functools import partial

from broker.cli.policy.load import rules_of, situation_from
from broker.core.services import PORTAL_CALLS, PORTAL_VARIABLES
from policy.rules.engine import Engine, PolicyCall


def portal_variables(record: str) -> dict[str, str]:
    """Return the variables for programs of a record; empty where a rule denies a part."""
    engine = Engine(rules_of(()))
    known = situation_from(None).calling({record})
    for service, argument in PORTAL_CALLS:
        call = PolicyCall(service, argument, record, "@adminvm")
        verdict = known.decide(call, partial(engine.answer, call, known.world))
        if verdict.answer.verdict not in {"allow", "ask"}:
            return {}
    return dict(PORTAL_VARIABLES)
