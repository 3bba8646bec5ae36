"""``brokerctl list``: the records, and which of them run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
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
from broker.core.escape import printable
from policy.records.model import Record

if TYPE_CHECKING:
    from broker.core.paths import Paths
    from broker.ipc.control.api import SandboxStatus


@click.command("list")
@click.option(
    "--services",
    is_flag=True,
    help="List only the records whose sandboxes start by themselves, and when they do.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(*, services: bool, as_json: bool) -> None:
    """List records, and the running sandboxes of each record.

    A running broker is not required.  Sandboxes without a record, such as that of
    'brokerctl demo', are listed, too.  Records with errors are listed last, with the
    error.
    """
    paths = offline_paths()
    warn_unless_found()
    found = read_records(paths)
    running, others = _running(paths, found.records)
    records = [found.records[name] for name in sorted(found.records)]
    if services:
        records = [record for record in records if _starts(record)]
        others = {}
    if as_json:
        objects = [_as_json(record, running[record.name]) for record in records]
        broken = {name: p.first_line() for name, p in found.broken.items()}
        render.json_line({"records": objects, "broken": broken})
        return
    if services:
        _print_services(records, running)
    else:
        _print_all(paths, records, running, others)
        if not records and not others and not found.broken:
            _print_first_steps()
    if not broker_runs(paths):
        # Late: mostly there is a broker.
        from broker.cli.run.living import living_words

        if words := living_words(paths):
            render.note(words)
    print_problems(found.problems, stderr=True)
    if found.broken:
        names = ", ".join(printable(name, 60) for name in sorted(found.broken))
        render.note(f"records with errors, which cannot be used: {names}")


def _running(
    paths: Paths, records: Mapping[str, Record]
) -> tuple[dict[str, list[str]], dict[str, SandboxStatus]]:
    """Return the running sandboxes of each record, and one of each without a record.

    Queries the broker if one runs.
    """
    running: dict[str, list[str]] = defaultdict(list)
    others: dict[str, SandboxStatus] = {}
    if broker_runs(paths):
        for sandbox in ask_status().sandboxes:
            running[sandbox.record].append(sandbox.name)
            if sandbox.record not in records:
                others.setdefault(sandbox.record, sandbox)
    return running, others


def _print_all(
    paths: Paths,
    records: list[Record],
    running: dict[str, list[str]],
    others: dict[str, SandboxStatus],
) -> None:
    """Print the table of records, and of running sandboxes without one."""
    if not records and not others:
        return
    made = temporary_records(paths)
    rows = [
        _row(record, running[record.name], temporary=record.source.parent == made)
        for record in records
    ]
    rows += [_other(sandbox, running[name]) for name, sandbox in others.items()]
    render.table(["NAME", "LABEL", "CLASS", "NETWORK", "PROGRAM", "RUNNING"], rows)


def _print_first_steps() -> None:
    known = ", ".join(sorted(path.stem for path in EXAMPLES.glob("*.toml")))
    render.note("there are no records yet; to create one, run 'brokerctl new NAME'")
    render.note(f"to use an example, run 'brokerctl new NAME --from {{{known}}}'")


def _starts(record: Record) -> str:
    """Return when a record's sandbox starts by itself; empty: on request only."""
    return "at login" if record.values.get("autostart") == "login" else ""


def _print_services(records: list[Record], running: dict[str, list[str]]) -> None:
    """Print the records whose sandboxes start by themselves."""
    if not records:
        render.note(
            "no sandbox starts by itself; to start one with your desktop, run "
            "'brokerctl set NAME autostart login'"
        )
        return
    rows = [
        (
            record.name,
            "at login",
            ", ".join(running[record.name]) or "-",
            printable(" ".join(record.host.command), 60) or "-",
        )
        for record in records
    ]
    render.table(["NAME", "STARTS", "RUNNING", "PROGRAM"], rows)


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
        "starts": _starts(record) or None,
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
        "temporary" if temporary else record.viewer.sandbox_class,
        str(record.values.get("launch.network", "-")),
        "-"
        if temporary
        else printable(" ".join(record.host.command) or app, 60)
        or "started by another program",
        ", ".join(running) or "-",
    )
