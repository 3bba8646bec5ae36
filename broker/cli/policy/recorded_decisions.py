"""Decisions of the log, with the records and the sandboxes of their time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import rich_click as click

from broker.cli.audit.query.times import parse_time
from broker.cli.policy.load import Situation, records_beside
from broker.cli.run.connect import offline_paths
from broker.core.errors import RefusedError, SetupError
from broker.core.escape import printable
from broker.ipc.audit.filters import Filters, Found
from broker.ipc.audit.query import open_log
from policy.rules.world import world_of
from policy.tools.calls import Sandboxes
from policy.tools.recorded import (
    LimitError,
    NoRuleError,
    NotReplayableError,
    Recorded,
    recorded,
)

Find = Callable[[Filters], Iterator[Found]]


def parsed_time(text: str) -> int:
    """Return a time of an option.  Raises UsageError."""
    try:
        return parse_time(text, datetime.now().astimezone())
    except SetupError as error:
        raise click.UsageError(f"{error.message}; {error.hint}") from error


def situation_then(find: Find, policy: tuple[Path, ...] = ()) -> Situation:
    """Return the records now, and every name under which one of them ran.

    The records are those of the directories in ``policy`` that have some.
    """
    ran: dict[str, str] = {}
    for found in find(Filters(kinds=("lease.begin",))):
        fields = found.fields()
        name, record = fields.get("sandbox"), fields.get("record")
        if isinstance(name, str) and isinstance(record, str):
            ran[name] = record
    records = records_beside(policy)
    return Situation(world_of(records, ran.items()), Sandboxes(records, ran))


def hint_of_limit(rule: str) -> str:
    """Return what a user can do about the limit of a rule, ``file:line``."""
    name = Path(rule.rpartition(".policy")[0]).name
    return (
        "wait, or change the limit of that line: 'brokerctl policy edit "
        f"{printable(name, 100)}'"
    )


def event(number: int, *, limits_of: str = "") -> tuple[Recorded, Situation]:
    """Return the decision that was recorded under a number, and its world.

    ``limits_of`` is a file of rules whose limits are taken for denials of rules.

    Raises RefusedError if none exists, or if it does not say enough.
    """
    with open_log(offline_paths().audit) as log:
        found = next(log.find(Filters(), after=number - 1, last=None), None)
        if found is None or found.sequence != number:
            raise RefusedError(
                f"the log does not contain event {number}",
                hint="to list the events, run 'brokerctl audit -n all'",
            )
        fields = found.fields()
        try:
            return recorded(fields, limits_of=limits_of), situation_then(log.find)
        except NotReplayableError as error:
            said = [
                f"{fields.get(key)}" for key in ("reason", "rule") if fields.get(key)
            ]
            words = printable(f"cannot explain event {number}: {error}", 300)
            if isinstance(error, NoRuleError) and said:
                words += printable(f" ({', '.join(said)})", 600)
            hint = "to see the recorded event, run 'brokerctl audit -n all'"
            if isinstance(error, LimitError):
                hint = hint_of_limit(f"{fields.get('rule')}")
            raise RefusedError(words, hint=hint) from error
