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
    temporary_records,
)
from broker.cli.run.connect import (
    ask_status,
    broker_runs,
    offline_paths,
    warn_unless_found,
)
from broker.cli.texts import tr
from broker.core.escape import printable
from policy.records.model import Record

if TYPE_CHECKING:
    from broker.ipc.control.api import SandboxStatus


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(*, as_json: bool) -> None:
    """List records, and the running sandboxes of each record.

    A running broker is not required.  Sandboxes without a record, such as that of
    'brokerctl demo', are listed, too.  Records with errors are listed last, with the
    error.
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
        made = temporary_records(paths)
        rows = [
            _row(record, running[record.name], temporary=record.source.parent == made)
            for record in records
        ]
        rows += [_other(sandbox, running[name]) for name, sandbox in others.items()]
        columns = tr("NAME,LABEL,CLASS,NETWORK,PROGRAM,RUNNING").split(",")
        render.table(columns, rows)
    elif not found.broken:
        known = ", ".join(sorted(path.stem for path in EXAMPLES.glob("*.toml")))
        render.note(
            tr("there are no records yet; to create one, run 'brokerctl new NAME'")
        )
        render.note(
            tr(
                "to use an example, run 'brokerctl new NAME --from {names}'",
                names=f"{{{known}}}",
            )
        )
    if not broker_runs(paths):
        # Late: mostly there is a broker.
        from broker.cli.run.living import living_words

        if words := living_words(paths):
            render.note(words)
    print_problems(found.problems, stderr=True)
    if found.broken:
        names = ", ".join(printable(name, 60) for name in sorted(found.broken))
        render.note(
            tr("records with errors, which cannot be used: {names}", names=names)
        )


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
    """Yield running sandboxes of examples or of removed records."""
    programs = ", ".join(program.name for program in sandbox.programs)
    return (
        sandbox.record,
        printable(f"{sandbox.label} {sandbox.color}", 60),
        sandbox.sandbox_class or "-",
        "-",
        printable(programs, 60) or "-",
        ", ".join(running),
    )


def _row(record: Record, running: list[str], *, temporary: bool) -> tuple[str, ...]:
    """Return a record's line; a temporary one is of a run, whose program it has not."""
    app = str(record.values.get("launch.app", ""))
    label = record.viewer.label
    return (
        record.name,
        printable(f"{label.name} {label.colour}", 60),
        tr("temporary") if temporary else record.viewer.sandbox_class,
        str(record.values.get("launch.network", "-")),
        "-"
        if temporary
        else printable(" ".join(record.host.command) or app, 60)
        or tr("started by another program"),
        ", ".join(running) or "-",
    )
