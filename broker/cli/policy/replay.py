"""``brokerctl policy simulate``: decide recorded calls again."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import rich_click as click
from rich.text import Text

from broker.cli import render
from broker.cli.audit.events import shown_target
from broker.cli.policy.load import JSON
from broker.cli.policy.recorded_decisions import Find, parsed_time, situation_then
from broker.cli.policy.records import end_by_problems
from broker.cli.policy.tools import one_set
from broker.cli.run.connect import offline_paths
from broker.cli.transfer.named_path import NamedPath
from broker.core.escape import printable
from broker.core.parts.absent import needed
from broker.ipc.audit.filters import Filters, Found
from broker.ipc.audit.query import open_log
from policy.rules.ruleset import RuleSet
from policy.tools.replay import Group, Simulation
from policy.tools.replay import simulate as ask_all_again


@click.command()
@click.argument("new", type=NamedPath(exists=True, path_type=Path))
@click.option(
    "-S",
    "--since",
    default="-30d",
    show_default=True,
    help="Use only decisions since this time, such as -7d or yesterday.",
)
@click.option("-U", "--until", help="Use only decisions until this time.")
@click.option(
    "--store", default="", metavar="ADDRESS", help="Read a fleet's database instead."
)
@click.option(
    "--machine",
    "machines",
    multiple=True,
    help="Use only decisions of machines that match this pattern; may be repeated.",
)
@JSON
def simulate(
    new: Path,
    *,
    since: str,
    until: str | None,
    store: str,
    machines: tuple[str, ...],
    as_json: bool,
) -> None:
    """Decide recorded calls again with the rules in NEW (a directory or a file).

    Print the decisions that would change.  A decision whose values were hashed or dropped
    in the log cannot be replayed.  Sandboxes have the tags and classes of their current
    records, or of the records in NEW.  With --store, replay the decisions of all machines
    of a fleet, for example before they are rolled out, with the sandboxes of each machine.

    Exit code: 0 no decision would change, 1 decisions would change, 3 the rules have an
    error.
    """
    rules = one_set(new, shipped=True)
    end_by_problems(rules.problems)
    times = (parsed_time(since), None if until is None else parsed_time(until))
    policy = (new,) if new.is_dir() else ()
    if machines and not store:
        raise click.UsageError("--machine requires --store")
    if store:
        found = _of_fleet(store, machines, rules, policy, times)
    else:
        with open_log(offline_paths().audit) as log:
            found = _again(log.find, rules, policy, times)
    if as_json:
        render.json_line(_as_json(found))
    else:
        _print(found)
    sys.exit(bool(found.changes))


def _of_fleet(
    store: str,
    machines: Sequence[str],
    rules: RuleSet,
    policy: tuple[Path, ...],
    times: tuple[int, int | None],
) -> Simulation:
    """Ask each machine's decisions again; names of sandboxes are a machine's own."""
    with needed("reading a fleet's database"):
        from broker.cli.fleet.fleet_database import open_fleet

    whole = Simulation()
    with open_fleet(store) as fleet:
        for machine in dict.fromkeys(log.machine for log in fleet.logs(machines)):

            def find(filters: Filters, name: str = machine) -> Iterator[Found]:
                return fleet.find(replace(filters, machines=(name,)))

            whole.add(_again(find, rules, policy, times))
    return whole


def _again(
    find: Find, rules: RuleSet, policy: tuple[Path, ...], times: tuple[int, int | None]
) -> Simulation:
    """Ask recorded decisions again with these rules; count the changes."""
    then = situation_then(find, policy)
    return ask_all_again(
        _decisions(find, *times), rules, then.world, sandboxes=then.sandboxes
    )


def _decisions(
    find: Find, since: int, until: int | None
) -> Iterator[dict[str, object]]:
    filters = Filters(kinds=("decision",), since_ns=since, until_ns=until)
    for found in find(filters):
        yield found.fields()


def _as_json(found: Simulation) -> dict[str, object]:
    return {
        "same": found.same,
        "changed": found.changed,
        "changes": [
            {**group._asdict(), "count": count, "event": number}
            for group, (count, number) in _by_count(found)
        ],
        "not_replayable": dict(found.skipped),
        "not_by_rules": dict(found.others),
    }


def _by_count(found: Simulation) -> list[tuple[Group, tuple[int, int]]]:
    return sorted(found.changes.items(), key=lambda item: (-item[1][0], item[0]))


def _shown_answer(answer: str) -> str:
    """Return ``allow to dom0`` as people read it."""
    head, to, target = answer.partition(" to ")
    return f"{head}{to}{shown_target(target)}"


def _print(found: Simulation) -> None:
    out = render.plain_console(soft_wrap=True)
    rows = []
    for group, (count, number) in _by_count(found):
        called = (shown_target(group.source), group.service, shown_target(group.target))
        then, now = (_shown_answer(one) for one in (group.then, group.now))
        cells = (*called, f"{then} → {now}", group.where)
        rows.append(
            (str(count), *(printable(cell, 200) for cell in cells), str(number))
        )
    if rows:
        render.table(
            ["TIMES", "FROM", "SERVICE", "TO", "DECISION", "RULE", "EVENT"], rows
        )
    asked = found.same + found.changed
    out.print(Text(f"{found.changed} of {asked} decisions would change"))
    for what, counted in (
        ("not replayable", found.skipped),
        ("not decided by rules", found.others),
    ):
        for reason, count in counted.most_common():
            render.note(f"{what}: {count} ({printable(reason, 200)})")
