"""``brokerctl status``: one line for each sandbox; the rest behind a name or --all.

The short form asks without an event loop and prints without rich: it is what
bars and prompts call, and is meant to take no longer than they do.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import rich_click as click

from broker import __version__
from broker.cli import render
from broker.cli.completion import sandboxes
from broker.control.api import Nothing, SandboxStatus, Status
from broker.control.blocking import open_blocking
from broker.control.methods import STATUS
from broker.core.escape import printable
from broker.core.paths import find_paths

COLUMNS = ("NAME", "LABEL", "PROGRAM", "UP", "MEMORY", "WINDOWS")


@click.command("status")
@click.argument("sandbox", required=False, shell_complete=sandboxes)
@click.option("-a", "--all", "everything", is_flag=True, help="Everything.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--watch", is_flag=True, help="Go on, once a second, until Ctrl-C.")
def command(
    sandbox: str | None, *, everything: bool, as_json: bool, watch: bool
) -> None:
    """Show running sandboxes, one line for each, and current problems.

    With SANDBOX or --all also leases, streams with their rates, processes with
    their memory and jail, and limits.  --json has everything.

    Exit code: 0, or 1 when no broker runs or it knows no such sandbox.
    """
    if sandbox is None and not (everything or as_json or watch):
        sys.stdout.write(summary(_ask(), time.time()))
        return
    from broker.cli.sandboxes.status_detail import show

    show(sandbox, as_json=as_json, watch=watch)


def _ask() -> Status:
    """The status.  Raises SetupError that says how to start a broker."""
    paths = find_paths()

    def start() -> str:
        # Late: which broker this machine has takes a look into its files.
        from broker.cli.run.connect import how_to_start

        return how_to_start(paths)

    with open_blocking(paths, start=start) as client:
        return client.call(STATUS, Nothing())


def summary(status: Status, now: float) -> str:
    """The short form.  ``now`` in seconds since 1970."""
    lines = [*_problems(status)]
    if not status.sandboxes:
        return "\n".join([*lines, "no sandbox runs"]) + "\n"
    memory = memory_of(status)
    rows = [_row(s, memory.get(s.name, 0), now) for s in status.sandboxes]
    return "".join(f"{line}\n" for line in [*lines, *_aligned([COLUMNS, *rows])])


def memory_of(status: Status) -> dict[str, int]:
    """Bytes of all processes of each sandbox."""
    found: dict[str, int] = {}
    for process in status.processes:
        if process.sandbox:
            memory = found.get(process.sandbox, 0) + (process.memory or 0)
            found[process.sandbox] = memory
    return found


def windows_of(sandbox: SandboxStatus) -> int | None:
    """How many windows it has; None where its worker has not reported it."""
    for limit in sandbox.limits:
        if limit.what == "windows":
            return limit.now
    return None


def _problems(status: Status) -> Iterator[str]:
    if status.version != __version__:
        yield (
            f"warning: the broker that runs is Vitrail {printable(status.version, 40)}, "
            f"brokerctl is {__version__}: 'brokerctl stop --broker' ends the old one "
            "with its sandboxes"
        )
    if not status.policy.digest or status.policy.denies_all:
        yield "no policy is in force: everything is denied"
    for problem in status.policy.problems:
        yield f"policy: {printable(problem)}"
    for warning in status.warnings:
        yield f"warning: {printable(warning)}"
    if status.link is not None and status.link.state != "up":
        yield f"warning: the link is {printable(status.link.state)}"


def _row(s: SandboxStatus, memory: int, now: float) -> tuple[str, ...]:
    windows = windows_of(s)
    programs = ", ".join(program.name for program in s.programs)
    state = "" if s.state == "running" else f" ({s.state})"
    cells = (
        s.name + state,
        s.label,
        programs or "-",
        render.seconds(max(0.0, now - s.since)),
        render.size(memory) if memory else "-",
        "-" if windows is None else str(windows),
    )
    return tuple(printable(cell, 60) for cell in cells)


def _aligned(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[n]) for row in rows) for n in range(len(COLUMNS))]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
