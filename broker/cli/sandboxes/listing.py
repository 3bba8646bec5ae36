"""``brokerctl list``: the records, and which of them run."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import rich_click as click

from broker.cli import render
from broker.cli.policy.records import (
    EXAMPLES,
    is_micro_vm,
    print_problems,
    read_records,
)
from broker.cli.run.connect import (
    ask_status,
    broker_runs,
    offline_paths,
    warn_unless_found,
)
from broker.core.escape import printable
from policy.records.model import Record

if TYPE_CHECKING:
    from broker.ipc.control.api import SandboxStatus


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(*, as_json: bool) -> None:
    """Show the records, and the sandboxes of each that run.

    Works without a broker.  A sandbox that runs without a record of yours, as that of
    'brokerctl demo', is shown, too.  Records with a mistake are shown last, with it.
    """
    paths = offline_paths()
    warn_unless_found()
    found = read_records(paths)
    running: dict[str, list[str]] = defaultdict(list)
    others: dict[str, SandboxStatus] = {}
    if broker_runs(paths):
        for sandbox in ask_status().sandboxes:
            running[sandbox.record].append(sandbox.name)
            if sandbox.record not in found.records:
                others.setdefault(sandbox.record, sandbox)
    records = [found.records[name] for name in sorted(found.records)]
    if as_json:
        objects = [_as_json(record, running[record.name]) for record in records]
        broken = {name: p.first_line() for name, p in found.broken.items()}
        render.json_line({"records": objects, "broken": broken})
        return
    if records or others:
        rows = [_row(record, running[record.name]) for record in records]
        rows += [_other(sandbox, running[name]) for name, sandbox in others.items()]
        render.table(("NAME", "LABEL", "CLASS", "NETWORK", "PROGRAM", "RUNNING"), rows)
    elif not found.broken:
        known = ", ".join(sorted(path.stem for path in EXAMPLES.glob("*.toml")))
        render.note("there are no records yet: 'brokerctl new NAME' makes one")
        render.note(
            f"to begin with an example: 'brokerctl new NAME --from {{{known}}}'"
        )
    print_problems(found.problems, stderr=True)
    if found.broken:
        names = ", ".join(printable(name, 60) for name in sorted(found.broken))
        render.note(f"records that cannot be used because of an error: {names}")


def _as_json(record: Record, running: list[str]) -> dict[str, object]:
    launch = record.host.launch
    own = launch if is_micro_vm(launch) else None
    return {
        "name": record.name,
        "label": record.viewer.label.name,
        "colour": record.viewer.label.colour,
        "class": record.viewer.sandbox_class,
        "network": own.network if own else None,
        "command": list(record.host.command) or None,
        "packages": list(own.packages) if own else None,
        "file": str(record.source),
        "running": running,
    }


def _other(sandbox: SandboxStatus, running: list[str]) -> tuple[str, ...]:
    """Return the row of a sandbox that runs without a record of the user's."""
    programs = ", ".join(program.name for program in sandbox.programs)
    return (
        sandbox.record,
        printable(f"{sandbox.label} {sandbox.color}", 60),
        sandbox.sandbox_class or "-",
        "-",
        printable(programs, 60) or "-",
        ", ".join(running),
    )


def _row(record: Record, running: list[str]) -> tuple[str, ...]:
    app = str(record.values.get("launch.app", ""))
    label = record.viewer.label
    return (
        record.name,
        printable(f"{label.name} {label.colour}", 60),
        record.viewer.sandbox_class,
        str(record.values.get("launch.network", "-")),
        printable(" ".join(record.host.command) or app, 60)
        or "started by another program",
        ", ".join(running) or "-",
    )
