"""``brokerctl audit connections``: one line for each connection of a sandbox.

A connection is several events: the decision with its rule, the opening, what was
copied or opened where, the end with the bytes moved, or a refusal.  They are joined by
their lease and their stream's number.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo

import rich_click as click

from broker.cli import render
from broker.cli.audit.event_text import EventCommand, EventOptions, asking
from broker.cli.audit.events import shown_target
from broker.cli.audit.query.times import rfc3339
from broker.cli.audit.source import open_source
from broker.cli.interrupts import reader_may_leave
from broker.cli.network.network_lines import unrecorded_network
from broker.cli.policy.records import read_records
from broker.cli.run.connect import offline_paths
from broker.cli.sandboxes.ended_disposables import is_disposable_of
from broker.core.escape import printable
from broker.ipc.audit.filters import Filters, Found

_KINDS = (
    "lease.begin",
    "lease.end",
    "decision",
    "stream.opened",
    "stream.closed",
    "stream.refused",
    "transfer.begin",
    "transfer.end",
)
_COLUMNS = "WHEN,SANDBOX,RECORD,SERVICE,TO,OBJECT,OUT,IN,TOOK,ENDED,WHY,EVENT"


_NOT_IN_JSON = frozenset({"time_ns", "what", "log", "numbered"})


@dataclass
class LoggedConnection:
    """One connection, from its events in the log; texts are not yet escaped."""

    sequence: int
    time_ns: int
    sandbox: str
    record: str = ""
    service: str = ""
    stream: int = 0
    peer: str = ""
    target: str = ""
    what: str = ""
    """Its object: an address or a file; the host, until an address is opened."""
    opened_in: str = ""
    """The sandbox that has opened or received the object."""
    verdict: str = ""
    rule: str = ""
    record_line: str = ""
    bytes_from_sandbox: int | None = None
    bytes_to_sandbox: int | None = None
    seconds: float | None = None
    ended: str = ""
    count: int = 1
    decision: int = 0
    """The number of the event of its decision; 0: none, as for the user's own calls."""
    machine: str = ""
    events: list[int] = field(default_factory=list)
    log: str = ""
    numbered: bool = False
    """Whether the log has its end, too: it has a stream or transfer of its own."""

    @property
    def open(self) -> bool:
        """Whether it has not ended, as far as the log shows."""
        return self.numbered and not self.ended

    def as_json(self) -> dict[str, object]:
        """Return the connection as an object for JSON."""
        return {
            "time": rfc3339(self.time_ns),
            "object": self.what,
            **{k: v for k, v in vars(self).items() if k not in _NOT_IN_JSON},
            "open": self.open,
        }


@click.command("connections", cls=EventCommand)
@asking
@click.option(
    "-r", "--reverse", is_flag=True, help="Show the newest connections first."
)
@click.option("--utc", is_flag=True, help="Show times in UTC.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def command(*, asked: EventOptions, reverse: bool, utc: bool, as_json: bool) -> None:
    """Show connections: time, sandbox, service, bytes, and the deciding rules.

    WHY is the line of the record and the line of the rule; EVENT is the number
    of the decision, for 'brokerctl policy explain --event', or '-' if there was none,
    as for what you copy yourself.  --grep searches the
    printed text.

    Exit code: as for 'brokerctl audit'.
    """
    with reader_may_leave(), open_source(asked) as source:
        wanted = replace(asked.filters, kinds=_KINDS, verdicts=(), rules=())
        filters = source.filters(replace(asked, filters=wanted))
        events = iter(()) if filters is None else source.find(filters)
        # Of no sandbox, so a filter for one would leave them out.
        of_brokers = replace(asked, filters=Filters(kinds=("broker.start",)))
        starts = source.filters(of_brokers)
        begins = () if starts is None else source.find(starts)
        found = [c for c in joined(events, begins) if _asked_for(c, asked)]
        if reverse:
            found.reverse()
        zone = UTC if utc else None
        rows = [(connection, _row(connection, zone)) for connection in found]
        if asked.grep is not None:
            grep = asked.grep
            rows = [(c, row) for c, row in rows if grep.search("  ".join(row))]
        if as_json:
            for connection, _ in rows:
                render.json_line(connection.as_json())
        elif rows:
            render.table(_COLUMNS.split(","), [row for _, row in rows])
    if not as_json:
        _print_unrecorded(asked.filters.sandboxes)
    if not rows:
        render.note("no connections match" if asked.anything else "no connections")
        sys.exit(1)


def _asked_for(connection: LoggedConnection, asked: EventOptions) -> bool:
    """Return whether a connection matches the filters about decisions."""
    verdicts, rules = asked.filters.verdicts, asked.filters.rules
    if verdicts and connection.verdict not in verdicts:
        return False
    lines = (connection.rule, connection.record_line)
    return not rules or any(rule in line for rule in rules for line in lines)


def _print_unrecorded(sandboxes: Iterable[str]) -> None:
    """Print which of the sandboxes have a network whose connections nobody records."""
    records = read_records(offline_paths()).records.values()
    for sandbox in sandboxes:
        for record in records:
            matches = sandbox == record.name or is_disposable_of(sandbox, record.name)
            if matches and record.values.get("launch.network") == "user":
                render.note(unrecorded_network(sandbox, "user"))


def joined(
    events: Iterable[Found], starts: Iterable[Found] = ()
) -> Iterator[LoggedConnection]:
    """Join events to connections, ordered by their first event.

    A connection ends with its sandbox, and with its broker: ``starts`` are the events of
    brokers that began.
    """
    records: dict[str, str] = {}
    live: dict[tuple[str, str, int, int], LoggedConnection] = {}
    of_lease: dict[tuple[str, str], list[LoggedConnection]] = {}
    done: list[LoggedConnection] = []
    for event in events:
        fields = event.fields()
        lease = str(fields.get("lease") or "")
        if event.kind == "lease.begin":
            records[lease] = str(fields.get("record") or "")
            continue
        if event.kind == "lease.end":
            _end_all(of_lease.pop((event.log, lease), ()), "the sandbox ended")
            continue
        stream = _number(fields.get("stream"))
        # What the user opens or copies has no stream, and a number of its own.
        number = 0 if stream else _number(fields.get("transfer"))
        key = (event.log, lease, stream, number)
        connection = live.get(key)
        continued = stream or (number and event.kind == "transfer.end")
        if connection is None or not continued:
            connection = live[key] = LoggedConnection(
                event.sequence, event.time_ns, event.sandbox, machine=event.machine
            )
            connection.log = event.log
            of_lease.setdefault((event.log, lease), []).append(connection)
            done.append(connection)
        connection.numbered |= bool(stream or number)
        connection.record = connection.record or records.get(lease, "")
        _take(connection, event.kind, fields)
        if event.kind == "decision":
            connection.decision = event.sequence
        connection.events.append(event.sequence)
        last = "transfer.end" if number else "stream.closed"
        if event.kind in {last, "stream.refused"}:
            live.pop(key, None)
    for start in starts:
        earlier = (
            c for c in done if c.log == start.log and c.sequence < start.sequence
        )
        _end_all(earlier, "the broker ended")
    yield from done


def _end_all(connections: Iterable[LoggedConnection], reason: str) -> None:
    """Set the end of the connections whose end the log does not have."""
    for connection in connections:
        connection.ended = connection.ended or reason


def _take(connection: LoggedConnection, kind: str, fields: dict[str, object]) -> None:
    """Add an event's fields to its connection."""
    for name in ("service", "peer"):
        value = str(fields.get(name) or "")
        setattr(connection, name, getattr(connection, name) or value)
    connection.stream = connection.stream or _number(fields.get("stream"))
    connection.count = max(connection.count, _number(fields.get("count")))
    outcome = str(fields.get("outcome") or "")
    if kind == "decision":
        connection.verdict = str(fields.get("verdict") or "")
        connection.rule = str(fields.get("rule") or "")
        connection.target = str(fields.get("target") or "")
        connection.what = str(fields.get("object") or "")
        detail = fields.get("detail")
        if isinstance(detail, dict):
            connection.record_line = str(detail.get("record") or "")
        if connection.verdict == "deny":
            connection.ended = "denied" if outcome != "cut" else "cut"
    elif kind == "transfer.begin":
        connection.target = connection.target or str(fields.get("target") or "")
        connection.what = str(fields.get("object") or "") or connection.what
    elif kind == "transfer.end":
        connection.opened_in = str(fields.get("opened_in") or "")
        if not connection.stream:
            connection.ended = str(fields.get("reason") or outcome or "done")
    elif kind == "stream.closed":
        connection.bytes_from_sandbox = _maybe(fields.get("bytes_from_sandbox"))
        connection.bytes_to_sandbox = _maybe(fields.get("bytes_to_sandbox"))
        seconds = fields.get("seconds")
        connection.seconds = (
            float(seconds) if isinstance(seconds, int | float) else None
        )
        connection.ended = str(fields.get("reason") or outcome or "closed")
    elif kind == "stream.refused":
        connection.ended = str(fields.get("reason") or outcome or "refused")


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _maybe(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _row(connection: LoggedConnection, zone: tzinfo | None) -> tuple[str, ...]:
    when = datetime.fromtimestamp(connection.time_ns // 1_000_000_000, tz=zone)
    lines = [line for line in (connection.record_line, connection.rule) if line]
    ended = connection.ended or ("still open" if connection.open else "-")
    cells = (
        f"{when:%m-%d %H:%M:%S}",
        connection.sandbox or "-",
        connection.record or "-",
        connection.service + (f" #{connection.stream}" if connection.stream else ""),
        _whereto(connection),
        connection.what or "-",
        _bytes(connection.bytes_from_sandbox),
        _bytes(connection.bytes_to_sandbox),
        "-" if connection.seconds is None else render.seconds(connection.seconds),
        ended + (f" ({connection.count} times)" if connection.count > 1 else ""),
        ", ".join(dict.fromkeys(map(_short, lines))) or "-",
        str(connection.decision or "-"),
    )
    return tuple(printable(cell, 400) for cell in cells)


def _whereto(connection: LoggedConnection) -> str:
    """Return the target, and the sandbox in which it was opened."""
    target = shown_target(connection.target)
    opened_in = shown_target(connection.opened_in)
    if opened_in and opened_in != target:
        return f"{target} ({opened_in})" if target else opened_in
    # The peer matters only if it is not a sandbox.
    return target or ("" if connection.sandbox else connection.peer) or "-"


def _short(where: str) -> str:
    """Return the base name of a rule's file, with the line."""
    return where.rpartition("/")[2]


def _bytes(number: int | None) -> str:
    return "-" if number is None else render.size(number)
