"""``brokerctl audit trace``: the events of one connection, of both of two machines.

Each machine counts its streams itself.  What both write is the stream's number on the
link with the link's epoch, by which two logs are joined.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TextIO

import rich_click as click

from broker.cli import render
from broker.cli.audit.event_text import EventCommand, EventOptions, asking
from broker.cli.audit.print import texts
from broker.cli.audit.source import Source, open_source
from broker.cli.interrupts import reader_may_leave
from broker.core.errors import IntegrityError
from broker.core.escape import printable
from broker.ipc.audit.filters import Filters, Found

_STREAM = re.compile(r"#?(?P<number>\d{1,18})(?:@(?P<epoch>[0-9a-f]{4,32}))?")
_KINDS = ("decision", "stream")
_ANY = Filters()


@dataclass(frozen=True)
class _Stream:
    """A connection as one log has it."""

    lease: str
    number: int
    link: str
    """Its number on the link and the epoch; empty: it used no link."""

    @classmethod
    def of(cls, found: Found) -> _Stream:
        fields = found.fields()
        number = fields.get("stream")
        return cls(
            str(fields.get("lease") or ""),
            number if isinstance(number, int) else 0,
            str(fields.get("link") or ""),
        )


@click.command("trace", cls=EventCommand)
@click.argument("stream", metavar="STREAM")
@asking
@click.option(
    "--with",
    "other",
    type=click.File(encoding="utf-8", errors="replace"),
    metavar="FILE",
    help="Add the other machine's events: what 'brokerctl audit export' wrote there; '-' is standard input.",
)
@click.option("--utc", is_flag=True, help="Show times in UTC.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def command(
    *, stream: str, asked: EventOptions, other: TextIO | None, utc: bool, as_json: bool
) -> None:
    """Show all events of one connection, from its decision to its end.

    STREAM is a number that 'brokerctl audit connections' shows behind '#' (the newest
    connection with it), or NUMBER@EPOCH: its number on the link between two machines,
    which is the same in both logs.

    Exit code: as for 'brokerctl audit'.
    """
    match = _STREAM.fullmatch(stream)
    if match is None:
        raise click.UsageError(f"{stream!r} is not a stream: write 7 or 7@0f3a…")
    exported = [] if other is None else list(_exported(other))
    with reader_may_leave(), open_source(asked) as source:
        wanted = replace(asked.filters, kinds=_KINDS)
        filters = source.filters(replace(asked, filters=wanted))
        named = [] if filters is None else _named(source.find(filters), match)
        own = [*_whole(source, named)]
        theirs = [*_of_link(exported, named)]
        if other is not None:
            _refuse_ours(theirs, own, other.name)
    found = [*own, *theirs]
    found.sort(key=lambda event: event.time_ns)
    output = "jsonl" if as_json else "short"
    for text in texts(map(_with_role, found), output, utc=utc):
        sys.stdout.write(text)
    _explain(found, named, given=other is not None)


def _with_role(found: Found) -> Found:
    """Name the machine by its role, where a fleet's store does not name it."""
    return found if found.machine else replace(found, machine=_role(found))


def _explain(found: list[Found], named: list[_Stream], *, given: bool) -> None:
    """Name the log or events that are missing; exit with 1 if no event was found."""
    if not found:
        render.note("no connection has that number")
        sys.exit(1)
    links = {stream.link for stream in named if stream.link}
    both = len({str(event.fields().get("broker")) for event in found}) > 1
    if links and not both:
        where = "FILE has no events of it" if given else "not shown"
        render.note(
            f"the other machine's events of {min(links)}: {where}; run there "
            f"'brokerctl audit export --lease {named[0].lease} FILE', and here the "
            "same command with '--with FILE'"
        )


def _named(events: Iterable[Found], match: re.Match[str]) -> list[_Stream]:
    """Return the streams that the argument names: in a fleet's store, of both logs."""
    streams = list(dict.fromkeys(map(_Stream.of, events)))
    if match["epoch"] is not None:
        start = f"{match['number']}@{match['epoch']}"
        return [one for one in streams if one.link.startswith(start)]
    # The events of a decision are not of the link yet, so the last has it.
    numbered = [one for one in streams if one.number == int(match["number"])]
    if not numbered:
        return []
    last = numbered[-1]
    return [
        one
        for one in streams
        if (one.lease == last.lease and one.number == last.number)
        or (last.link and one.link == last.link)
    ]


def _whole(source: Source, named: list[_Stream]) -> Iterator[Found]:
    """Yield all events of the streams, also those without the link's number."""
    if not named:
        return
    keys = {(one.lease, one.number) for one in named}
    links = {one.link for one in named if one.link}
    leases = tuple({one.lease for one in named})
    for found in source.find(replace(_ANY, leases=leases)):
        one = _Stream.of(found)
        if (one.lease, one.number) in keys and (not one.link or one.link in links):
            yield found


def _of_link(exported: list[Found], named: list[_Stream]) -> Iterator[Found]:
    """Yield the other machine's events of the same connection."""
    links = {one.link for one in named if one.link}
    streams = {_Stream.of(found) for found in exported}
    keys = {(one.lease, one.number) for one in streams if one.link in links}
    for found in exported:
        one = _Stream.of(found)
        if (one.lease, one.number) in keys:
            yield found


def _refuse_ours(theirs: list[Found], own: list[Found], name: str) -> None:
    """Raise IntegrityError for an event of a file that is not of the other machine.

    The file is the other machine's word: its events may be false, but no event of this log.
    """
    roles = {_role(event) for event in own}
    wanted = {"host", "viewer"} - roles
    for event in theirs:
        # guard: another machine's file has no event of this log
        if _role(event) not in wanted:
            raise IntegrityError(
                f"event {event.sequence} of {name} is of a broker {_role(event)!a}, and not "
                f"of the other machine, a {' or '.join(sorted(wanted)) or 'second one'}",
                hint="write the file with 'brokerctl audit export FILE' on the "
                "other machine",
            )


def _role(found: Found) -> str:
    return printable(str(found.fields().get("broker") or ""), 40)


def _exported(file: TextIO) -> Iterator[Found]:
    """Yield the events of a file of 'brokerctl audit export'.

    Raises IntegrityError for a line that is not an event.
    """
    for number, line in enumerate(file, 1):
        fields = Found(0, 0, "", "", line).fields()
        try:
            yield Found(
                _whole_number(fields["sequence"]),
                _whole_number(fields["time_ns"]),
                str(fields["kind"]),
                str(fields.get("sandbox") or ""),
                line.strip(),
            )
        except (KeyError, ValueError) as error:
            raise IntegrityError(
                f"line {number} of {file.name} is not an event of an audit log",
                hint="write the file with 'brokerctl audit export FILE' on the "
                "other machine",
            ) from error


def _whole_number(value: object) -> int:
    # guard: a number of an exported event is one that a log can have
    if type(value) is int and 0 <= value < 1 << 63:
        return value
    raise ValueError
