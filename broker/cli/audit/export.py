"""``brokerctl audit export``: write events to a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import rich_click as click

from broker.cli import render
from broker.cli.audit.event_text import EventCommand, EventOptions, asking
from broker.cli.audit.files import write_out
from broker.cli.audit.print import texts
from broker.cli.audit.source import Source, open_source
from broker.cli.interrupts import reader_may_leave
from broker.cli.transfer.named_path import NamedPath
from broker.ipc.audit.filters import Found, value_texts

_FORMATS = ("raw", "jsonl", "json", "csv")


@click.command("export", cls=EventCommand)
@click.argument(
    "path",
    metavar="FILE",
    type=NamedPath(dir_okay=False, path_type=Path, allow_dash=True),
)
@asking
@click.option(
    "-o",
    "--output",
    type=click.Choice(_FORMATS),
    default="raw",
    show_default=True,
    help="Output format; 'raw' writes each event as it was recorded, one per line.",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
def command(*, path: Path, asked: EventOptions, output: str, force: bool) -> None:
    """Write all selected events to FILE; '-' is standard output.

    A line of the format 'raw' is the input of the event's hash in the log's tree, so an
    export can be checked against a proof (audit prove) or a checkpoint.

    Exit code: as for 'brokerctl audit'.
    """
    with reader_may_leave(), open_source(asked) as source:
        events = _Counted(_found(source, asked))
        lines = _raw(events) if output == "raw" else texts(events, output)
        write_out(path, lines, force=force)
    if str(path) != "-":
        render.note(f"{path}: {events.number} events")
    if not events.number:
        sys.exit(1)


class _Counted:
    def __init__(self, events: Iterator[Found]) -> None:
        self._events = events
        self.number = 0

    def __iter__(self) -> Iterator[Found]:
        for found in self._events:
            self.number += 1
            yield found


def _found(source: Source, asked: EventOptions) -> Iterator[Found]:
    """Yield the events that match the search."""
    filters = source.filters(asked)
    if filters is None:
        return
    for found in source.find(filters):
        if asked.grep is None or any(map(asked.grep.search, value_texts(found))):
            yield found


def _raw(events: _Counted) -> Iterator[str]:
    return (f"{found.body}\n" for found in events)
