"""``brokerctl policy suggest``: the rules that a sandbox would have needed."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

import rich_click as click
from rich.text import Text

from broker.cli import render
from broker.cli.completion import logged_sandboxes
from broker.cli.policy.load import JSON, rules_of
from broker.cli.policy.recorded_decisions import parsed_time, situation_then
from broker.cli.policy.records import end_by_problems
from broker.cli.run.connect import offline_paths
from broker.core.escape import printable
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import Log, open_log
from policy.tools.suggest import Suggestion
from policy.tools.suggest import suggest as lines_for


@click.command()
@click.argument("sandbox", shell_complete=logged_sandboxes)
@click.option(
    "-S",
    "--since",
    default="-7d",
    show_default=True,
    help="Use only decisions since this time, such as -7d or yesterday.",
)
@click.option("-U", "--until", help="Use only decisions until this time.")
@click.option("--lines", "bare", is_flag=True, help="Print only the suggested lines.")
@JSON
def suggest(
    sandbox: str, *, since: str, until: str | None, bare: bool, as_json: bool
) -> None:
    """Print the smallest set of rules that would have allowed the refused calls.

    SANDBOX is a sandbox or a record.  The calls are those in the audit log that rules
    denied, or would have denied without mode=observe.  The output has one rule for each
    destination, tested on the recorded calls.  Nothing is written.

    Exit code: 0 there are rules, 1 no call was refused, 3 the rules have an error.
    """
    rules = rules_of(())
    end_by_problems(rules.problems)
    times = (parsed_time(since), None if until is None else parsed_time(until))
    with open_log(offline_paths().audit) as log:
        world = situation_then(log.find).world
        found = lines_for(_decisions(log, sandbox, *times), rules, world)
    if as_json:
        lines = [one._asdict() for one in found.lines]
        render.json_line({"lines": lines, "left": dict(found.left)})
    elif bare:
        out = render.plain_console(soft_wrap=True)
        for one in found.lines:
            out.print(Text(one.line))
    elif found.lines:
        rows = [(str(one.times), str(one.event), one.line) for one in found.lines]
        render.table(["TIMES", "EVENT", "LINE"], rows)
    if not as_json:
        _explain(found.lines)
        for reason, count in found.left.most_common():
            render.note(
                f"no rule was found for {render.count(count, 'refusal')} "
                f"({printable(reason, 200)})"
            )
    if not found.lines:
        render.note(
            f"the rules did not refuse any call of '{printable(sandbox, 60)}' in "
            "this period"
        )
        sys.exit(1)


def _explain(lines: list[Suggestion]) -> None:
    """Print where lines must be placed, and which ports are guesses."""
    for place in dict.fromkeys(one.before for one in lines if one.before):
        count = sum(one.before == place for one in lines)
        render.note(f"{render.count(count, 'line')} must precede {place}")
    if guessed := [one.line.split()[1][1:] for one in lines if one.guessed]:
        names = ", ".join(guessed[:5]) + (", …" if guessed[5:] else "")
        render.note(f"the port is a guess for names that were only looked up: {names}")


def _decisions(
    log: Log, name: str, since: int, until: int | None
) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Yield the decisions of a sandbox, or of all of a record, with their time."""
    filters = Filters(
        sandboxes=(name,), kinds=("decision",), since_ns=since, until_ns=until
    )
    for found in log.find(filters):
        yield found.time_ns, found.fields()
