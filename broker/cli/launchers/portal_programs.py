"""Whether programs of a box or container use the sandbox's portal."""

from __future__ import annotations

from functools import partial

from broker.cli.policy.records import read_records
from broker.cli.run.connect import offline_paths
from broker.core.services import PORTAL_CALLS, PORTAL_VARIABLES
from policy.rules.engine import Engine, PolicyCall
from policy.rules.record_gate import RecordRequest
from policy.rules.rulefiles import SHIPPED, load_rules, rule_path
from policy.rules.verdict import decide
from policy.rules.world import world_of


def portal_variables(record: str) -> dict[str, str]:
    """Return the variables for programs of a record; empty if a rule denies a part."""
    # Not by cli.policy.load, whose other imports cost a start as much as the decision.
    paths = offline_paths()
    records = read_records(paths)
    rules = load_rules(rule_path(paths.runtime, paths.config), shipped=SHIPPED)
    engine, world = Engine(rules), world_of(records)
    for service, argument in PORTAL_CALLS:
        call = PolicyCall(service, argument, record, "@adminvm")
        asked = RecordRequest(record, record, service)
        verdict = decide(records, asked, partial(engine.answer, call, world))
        if verdict.answer.verdict not in {"allow", "ask"}:
            return {}
    return dict(PORTAL_VARIABLES)
