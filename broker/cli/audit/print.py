"""Events as text: for people, for programs, for tables.

Whatever a sandbox managed to get into an event, nothing that leaves here can
drive a terminal: JSON is ASCII without control characters, everything else is
escaped.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, tzinfo

from rich.console import Console
from rich.text import Text

from broker.cli.audit.events import as_line, as_message, as_object
from broker.cli.audit.query.times import rfc3339
from broker.cli.render import json_text
from broker.core.escape import printable
from broker.ipc.audit.filters import Found

OUTPUTS = ("short", "json", "jsonl", "csv", "cat")

COLUMNS = (
    *("time", "machine", "sequence", "kind", "sandbox", "lease", "generation"),
    *("service", "argument", "object", "stream", "peer", "verdict", "rule", "target"),
    *("outcome", "reason", "count", "bytes_from_sandbox", "bytes_to_sandbox"),
    *("seconds", "boot", "broker", "policy"),
)
"""Of CSV: what most questions are about; ``jsonl`` has everything."""

_CELL = 2000


def texts(
    events: Iterable[Found], output: str, *, colour: bool = False, utc: bool = False
) -> Iterator[str]:
    """Yield events in an output format ("json", "jsonl", "csv" or text), as lines."""
    zone = UTC if utc else None
    if output == "json":
        yield from _array(events)
    elif output == "jsonl":
        yield from (f"{json_text(as_object(found))}\n" for found in events)
    elif output == "csv":
        yield from _csv(events)
    else:
        show = _people(output, colour=colour, zone=zone)
        yield from (show(found) for found in events)


def _array(events: Iterable[Found]) -> Iterator[str]:
    begin = "["
    for found in events:
        yield f"{begin}{json_text(as_object(found))}"
        begin = ",\n "
    yield "[]\n" if begin == "[" else "]\n"


def _people(
    output: str, *, colour: bool, zone: tzinfo | None
) -> Callable[[Found], str]:
    """Return a function that formats an event for people."""

    def line(found: Found) -> Text:
        return as_message(found) if output == "cat" else as_line(found, zone)

    if not colour:
        return lambda found: f"{line(found).plain}\n"
    console = Console(highlight=False, force_terminal=True, soft_wrap=True)

    def coloured(found: Found) -> str:
        with console.capture() as capture:
            console.print(line(found))
        return capture.get()

    return coloured


def _csv(events: Iterable[Found]) -> Iterator[str]:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for found in events:
        fields = found.fields()
        fields["time"] = rfc3339(found.time_ns)
        fields["machine"] = found.machine
        writer.writerow([_cell(fields.get(name)) for name in COLUMNS])
        yield out.getvalue()
        out.seek(0)
        out.truncate()
    yield out.getvalue()


def _cell(value: object) -> object:
    """Escape a cell, so that it is neither a formula nor a terminal control sequence."""
    if value is None or isinstance(value, int | float):
        return "" if value is None else value
    text = printable(str(value), _CELL)
    return f"'{text}" if text[:1] in {"=", "+", "-", "@"} else text
