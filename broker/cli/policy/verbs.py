"""``brokerctl policy``: the table of its verbs, and what a record says.

Everything here works without a broker: it reads the same files in the same
way.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn

import rich_click as click
from rich.text import Text

from broker.cli import render
from broker.cli.completion import sandboxes
from broker.cli.late_group import LateGroup
from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.services import NETWORK

if TYPE_CHECKING:
    from policy.records.model import Record, RecordSet
    from policy.rules.verdict import Verdict

_LATER = MappingProxyType(
    {
        "check": "policy.check:check",
        "diff": "policy.tools:diff",
        "edit": "policy.edit:edit",
        "effective": "policy.tools:effective",
        "eval": "policy.ask:evaluate",
        "explain": "policy.explain:explain_call",
        "fmt": "policy.tools:fmt",
        "graph": "policy.graph:graph",
        "import": "policy.import_from:import_from",
        "lint": "policy.lint:lint",
        "simulate": "policy.replay:simulate",
        "suggest": "allow.suggest:suggest",
        "starter": "policy.starter:starter",
        "test": "policy.tools:test_policy",
    }
)

SCHEMA_NAMES = ("sandbox", "world", "call", "answer")
"""The keys of schema_calls.SCHEMAS, whose module is loaded late."""


_ABOUT = (
    "calls to this desktop (to see all targets, run 'brokerctl policy effective NAME'):"
)


@click.group("policy", cls=LateGroup)
def command() -> None:
    """Check, explain and test records and rules, without a running broker."""


command.later = _LATER


@command.command()
@click.argument("sandbox", shell_complete=sandboxes)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(sandbox: str, *, as_json: bool) -> None:
    """Show the values of the record SANDBOX, and where each value is set.

    After the values, show the decision about each service towards this desktop, with the
    deciding lines of record and rules.  To see all targets, run 'brokerctl policy
    effective'.

    Exit code: 0 done, 1 the record does not exist or has an error.
    """
    from broker.cli.policy.load import rules_of, situation_from
    from policy.rules.checks import SERVICES
    from policy.rules.engine import Engine, PolicyCall

    found = _load()
    record = found.records.get(sandbox)
    if record is None:
        _refuse(found, sandbox)
    rules = rules_of(())
    engine, situation = Engine(rules), situation_from(None)
    decisions: dict[str, Verdict] = {}
    for service in SERVICES:
        call = PolicyCall(service, "+", sandbox, "@adminvm")
        answer = partial(engine.answer, call, situation.world)
        decisions[service] = situation.decide(call, answer)
    if as_json:
        render.json_line(_as_json(record, decisions))
    else:
        _print_record(record, decisions)
    from broker.cli.policy.records import tell_problems  # late

    tell_problems(rules.problems)


@command.command()
@click.argument("of", type=click.Choice(SCHEMA_NAMES), default="sandbox")
@click.option("--markdown", is_flag=True, help="Print the reference of all keys.")
def schema(of: str, *, markdown: bool) -> None:
    """Print a JSON Schema: of a record [default], or of another format.

    'world' is the format of --world files; 'call' and 'answer' are the lines of
    'eval --batch'.
    """
    from policy.tools.schemas.schema import reference
    from policy.tools.schemas.schema_calls import text_of

    sys.stdout.write(reference() if markdown else text_of(of))


def _load() -> RecordSet:
    from broker.cli.policy.records import read_records
    from broker.cli.run.connect import offline_paths

    return read_records(offline_paths())


def _refuse(found: RecordSet, sandbox: str) -> NoReturn:
    """Report why there is no usable record of this name, and exit."""
    from broker.cli.policy.records import hint_for_unknown, require_correct
    from broker.cli.run.connect import offline_paths

    require_correct(found, sandbox, stderr=False)
    raise RefusedError(
        f"no record is named '{printable(sandbox, 60)}'",
        hint=hint_for_unknown(sandbox, found.records, offline_paths()),
    )


def _as_json(record: Record, decisions: dict[str, Verdict]) -> dict[str, object]:
    return {
        "name": record.name,
        "source": str(record.source),
        "digest": record.digest,
        "values": {
            key: {
                "value": _json_value(value),
                "where": record.where(key),
                "set": key in record.places,
            }
            for key, value in record.values.items()
        },
        "decisions": {
            service: {
                "verdict": decision.answer.verdict,
                "reason": decision.answer.reason,
                "where": decision.where,
                "record": decision.record.where if decision.record else "",
            }
            for service, decision in decisions.items()
        },
    }


def _json_value(value: object) -> object:
    """Return a value of a record for JSON: a table of it as an object by its keys."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {key: _json_value(item) for key, item in value._asdict().items()}
    if isinstance(value, tuple):
        return [_json_value(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _print_record(record: Record, decisions: dict[str, Verdict]) -> None:
    out = render.plain_console(soft_wrap=True)
    out.print(Text(printable(str(record.source), 4000)))
    rows = [
        (key, _written(value), _line(record.places.get(key, "")))
        for key, value in record.values.items()
    ]
    render.table(["KEY", "VALUE", "FROM"], rows)
    out.print()
    out.print(Text(_ABOUT))
    for service, decision in decisions.items():
        reason = decision.answer.reason
        verdict: str = decision.answer.verdict
        # A flow is never asked about, and goes out all the same.
        if service == NETWORK and getattr(record.host.launch, "network", "") == "user":
            verdict = "without a rule"
        out.print(Text(f"{service}: {verdict}, because {reason}"))
        if decision.record is not None and not decision.refused_by_record:
            out.print(Text(printable(f"    {decision.record.reason}", 400)))


def _line(where: str) -> str:
    """The place without the file, which is above the table."""
    return "line " + where.rsplit(":", 2)[1] if where else "default"


def _written(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{printable(str(item), 60)}"' for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return printable(str(value), 120)
