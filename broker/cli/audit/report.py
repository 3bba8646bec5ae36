"""``brokerctl audit report``: one HTML file with a summary of events."""

from __future__ import annotations

import sys
import time
from datetime import UTC
from pathlib import Path

import rich_click as click

from broker.cli import render
from broker.cli.audit.event_text import EventCommand, EventOptions, asking
from broker.cli.audit.files import write_out
from broker.cli.audit.query.digest import Digest
from broker.cli.audit.source import Source, open_source
from broker.cli.interrupts import reader_may_leave
from broker.cli.transfer.named_path import NamedPath
from broker.core.errors import SetupError
from broker.ipc.audit.filters import Filters, value_texts


@click.command("report", cls=EventCommand)
@asking
@click.option(
    "--to",
    "path",
    type=NamedPath(dir_okay=False, path_type=Path),
    default=Path("audit-report.html"),
    show_default=True,
    help="Write to this file; '-' is standard output.",
)
@click.option(
    "--title",
    default="Sandbox activity",
    show_default=True,
    help="Heading of the report.",
)
@click.option("--utc", is_flag=True, help="Show times in UTC.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
def command(
    *, asked: EventOptions, path: Path, title: str, utc: bool, force: bool
) -> None:
    """Write a self-contained HTML report.

    The report contains a timeline for each sandbox, the most active peers, denied calls,
    grants, answered questions, and problems.

    The Python package jinja2 is required.

    Exit code: as for 'brokerctl audit'.
    """
    try:
        from broker.cli.audit.html import page
    except ModuleNotFoundError as error:
        raise SetupError(
            f"cannot write a report: the Python package {error.name} is not installed",
            hint="install Debian's python3-jinja2, or in a checkout run: pipx "
            "install --force '.[report]'; for counts without a report, run "
            "'brokerctl audit stats'",
        ) from error
    with reader_may_leave(), open_source(asked) as source:
        digest = _digest(source, asked)
        zone = UTC if utc else None
        write_out(
            path, page(digest, title=title, asked=_words(asked), zone=zone), force=force
        )
    if str(path) != "-":
        render.note(f"{path}: {digest.events} events")
    if not digest.events:
        sys.exit(1)


def _digest(source: Source, asked: EventOptions) -> Digest:
    """Summarise the matching events, read from a log's file or a fleet's database."""
    filters = source.filters(asked)
    if filters is None:
        return Digest(0, 0)
    begin, end = _ends(source, filters)
    digest = Digest(begin, end)
    for found in source.find(filters):
        if asked.grep is None or any(map(asked.grep.search, value_texts(found))):
            digest.take(found)
    digest.finish()
    return digest


def _ends(source: Source, filters: Filters) -> tuple[int, int]:
    """Return the timeline's ends: as requested, or of the first and last event."""
    now = time.time_ns()
    begin, end = filters.since_ns, filters.until_ns
    first = next(iter(source.find(filters)), None)
    last = next(iter(source.find(filters, last=1)), None)
    if begin is None:
        begin = first.time_ns if first else now
    if end is None:
        end = last.time_ns if last else now
    return begin, max(begin, min(end, now))


def _words(asked: EventOptions) -> str:
    """Describe the search, for the head of the report."""
    named = [
        f"{f} {' or '.join(values)}" for f, values in asked.filters.named().items()
    ]
    if asked.filters.kinds:
        named.append(f"kind {' or '.join(asked.filters.kinds)}")
    if asked.filters.machines:
        named.append(f"machine {' or '.join(asked.filters.machines)}")
    if asked.grep is not None:
        named.append(f"text matching {asked.grep.pattern!r}")
    return "only " + ", ".join(named) if named else ""
