"""Queries of the fleet's database: the same filters, the events of all machines.

Events come in the order of their times, as each log counts from 1.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

import msgspec
import rich_click as click
import trio

from broker.cli.audit.event_text import EventOptions
from broker.cli.audit.proof.shipped import ShippedLog
from broker.cli.fleet.fleet_counts import count, counted
from broker.core.decoding import UNREADABLE
from broker.core.errors import SetupError
from broker.core.escape import printable
from broker.helpers.shipper.database import (
    VERSION,
    Connection,
    Error,
    opened,
    problem,
    usable,
)
from broker.ipc.audit import schema
from broker.ipc.audit.counts import Counts
from broker.ipc.audit.event import Scalar
from broker.ipc.audit.filters import Filters, Found, choose, kinds_among
from broker.ipc.in_thread import in_thread

_FOLLOW_SECONDS = 1.0
_PAGE = 1000
_CURSOR = re.compile(r"l=((?:\d{1,19}:\d{1,19})(?:,\d{1,19}:\d{1,19})*)?")

# A machine's role can put any text into its rows.  A body that is not JSON, or a
# word in the place of a number, must not end the questions about all machines, as a
# cast would.  In our bodies a text cannot look like a field: its quotes are escaped.
_RECORD = r"""substring(body from '"record":"([^"\\]*)"')"""

_IN_BODY = ("lease", "peer", "outcome")
"""Seldom asked for, so they have no column (fleet-tables-7.sql)."""

_HAS_OBJECT = "object_hash IS NOT NULL"
"""The condition of the index by objects, word for word."""

_Place = tuple[int, int, int]
"""Time, log and number: where an event is in the order."""
_Span = tuple[int, int, int]
"""A log, and numbers: events after the first one, up to the second."""


class Fleet:
    """The database, opened for reading; made by ``open_fleet``."""

    def __init__(self, connection: Connection, seconds: float) -> None:
        self._connection = connection
        self._milliseconds = str(int(1000 * seconds))
        self.horizon = ""
        """The newest event of each log when ``find`` was called; the cursor to continue
        with.  A log is shipped in its order, so nothing comes before it later."""

    def filters(self, asked: EventOptions) -> Filters:
        """As they were asked."""
        return asked.filters

    def find(
        self,
        filters: Filters,
        *,
        cursor: str = "",
        last: int | None = None,
        newest_first: bool = False,
    ) -> Iterator[Found]:
        """Yield the matching events of all machines, oldest first by default.

        ``cursor`` is an earlier ``horizon``; ``last`` keeps only the newest.
        Raises UpstreamError when the database fails, UsageError for a cursor
        that is not one.
        """
        begin, end = _read_cursor(cursor), self._now()
        self.horizon = _cursor(end)
        return self._find(filters, _spans(begin, end), last, newest_first)

    def _find(
        self,
        filters: Filters,
        spans: Sequence[_Span],
        last: int | None,
        newest_first: bool,  # noqa: FBT001
    ) -> Iterator[Found]:
        """Yield matching events of some spans of logs, page by page."""
        if last is not None and not newest_first:
            yield from reversed([*self._find(filters, spans, last, True)])  # noqa: FBT003
            return
        where, values = self._where(filters)
        values = [*map(list, zip(*spans, strict=True)), *values]
        if not spans:
            return
        place: _Place | None = None
        while last is None or last > 0:
            size = _PAGE if last is None else min(last, _PAGE)
            rows = self._page(where, values, place, size, newest_first)
            for row in rows:
                sequence, time_ns, place_ns, kind, sandbox, body, *whose = row
                machine, name, log = whose
                place = (_int(place_ns), _int(log), _int(sequence))
                # guard: times after the arrival are marked
                late = place[0] < _int(time_ns)
                yield Found(
                    sequence=place[2],
                    time_ns=_int(time_ns),
                    kind=str(kind),
                    sandbox=str(sandbox),
                    body=_readable(str(body), str(kind)),
                    machine=str(machine),
                    log=name.hex() if isinstance(name, bytes) else "",
                    time_after_arrival=late,
                )
            if len(rows) < size:
                return
            last = None if last is None else last - len(rows)

    def _page(
        self,
        where: str,
        values: Sequence[object],
        place: _Place | None,
        size: int,
        newest_first: bool,  # noqa: FBT001
    ) -> list[tuple[object, ...]]:
        """Return one page of matching rows after a place."""
        order = "DESC" if newest_first else "ASC"
        if place is not None:
            sign = "<" if newest_first else ">"
            where += f" AND (place_ns, event.log, sequence) {sign} (%s, %s, %s)"
            values = [*values, *place]
        # Only our own words go into the text; every value is bound.
        return self._rows(
            "SELECT sequence, time_ns, place_ns, kind, sandbox, body, machine, name, "  # noqa: S608
            "event.log FROM vitrail.event JOIN vitrail.log ON log.id = event.log "
            "JOIN unnest(%s::bigint[], %s::bigint[], %s::bigint[]) "
            "AS span (log, after, upto) ON span.log = event.log "
            "AND sequence > span.after AND sequence <= span.upto "
            f"WHERE {where} ORDER BY place_ns {order}, event.log {order}, "
            f"sequence {order} LIMIT %s",
            [*values, size],
        )

    def _of_records(self, names: Sequence[str]) -> list[str]:
        """Return the sandboxes of the records of these names, but no name again."""
        rows = self._rows(
            "SELECT DISTINCT sandbox FROM vitrail.event WHERE kind = 'lease.begin' "  # noqa: S608
            f"AND {_RECORD} = ANY(%s)",
            [list(names)],
        )
        return [str(row[0]) for row in rows if row[0] not in names]

    def _where(self, filters: Filters) -> tuple[str, list[object]]:
        """Return the SQL condition of filters, with its values."""
        parts = ["true"]
        values: list[object] = []
        for field, wanted in filters.named().items():
            if field in _IN_BODY:
                part, value = _in_body(field, wanted)
                parts.append(part)
                values += value
                continue
            chosen = choose(field, wanted, partial(self.values, field))
            if field == "sandbox":
                chosen += self._of_records(chosen)
            parts.append(f"({field} = ANY(%s) AND {field} <> '')")
            values.append(chosen)
        if filters.kinds:
            parts.append("kind = ANY(%s)")
            values.append(kinds_among(self.values("kind"), filters.kinds))
        if filters.boot:
            parts.append("replace(vitrail.text_of(body, 'boot'), '-', '') = %s")
            values.append(filters.boot.replace("-", ""))
        if filters.objects:
            part, value = _objects(filters.objects)
            parts.append(part)
            values += value
        for column, names in self._whose(filters):
            parts.append(
                f"event.log IN (SELECT id FROM vitrail.log WHERE {column} = ANY(%s))"  # noqa: S608
            )
            values.append(names)
        for sign, moment in ((">=", filters.since_ns), ("<=", filters.until_ns)):
            if moment is not None:
                parts.append(f"place_ns {sign} %s")
                values.append(moment)
        return " AND ".join(parts), values

    def _whose(self, filters: Filters) -> Iterator[tuple[str, list[str]]]:
        if filters.machines:
            yield "machine", choose("machine", filters.machines, self.machines)
        if filters.owners:
            yield "owner", list(filters.owners)

    def values(self, field: str) -> list[str]:
        """Return the values that a column has had: one look into the index for each."""
        rows = self._rows(
            f"""
            WITH RECURSIVE found (x) AS (
                (SELECT {field} FROM vitrail.event WHERE {field} <> ''
                 ORDER BY 1 LIMIT 1)
                UNION ALL
                SELECT (SELECT {field} FROM vitrail.event
                        WHERE {field} > x AND {field} <> '' ORDER BY 1 LIMIT 1)
                FROM found WHERE x IS NOT NULL
            ) SELECT x FROM found WHERE x IS NOT NULL""",  # noqa: S608
            [],
        )
        return [str(row[0]) for row in rows]

    def machines(self) -> list[str]:
        """The machines that ship here."""
        rows = self._rows("SELECT DISTINCT machine FROM vitrail.log ORDER BY 1", [])
        return [str(row[0]) for row in rows]

    def logs(self, machines: Sequence[str]) -> list[ShippedLog]:
        """Return the logs of some machines; of all if none is named."""
        wanted = choose("machine", machines or ["*"], self.machines)
        rows = self._rows(
            "SELECT id, name, machine, owner FROM vitrail.log WHERE machine = ANY(%s) "
            "ORDER BY machine, id",
            [wanted],
        )
        return [
            ShippedLog(_int(number), name.hex(), str(machine), str(role))
            for number, name, machine, role in rows
            if isinstance(name, bytes)
        ]

    def notes(self, log: ShippedLog) -> list[str]:
        """Return the signed checkpoints of a log, ordered by size."""
        rows = self._rows(
            "SELECT note FROM vitrail.checkpoint WHERE log = %s ORDER BY size, kind",
            [log.number],
        )
        return [str(note) for (note,) in rows]

    def frontiers(self, log: ShippedLog) -> dict[int, bytes]:
        """Return the stored left edges of the log's tree, by size."""
        rows = self._rows(
            "SELECT size, peaks FROM vitrail.frontier WHERE log = %s AND size > 0",
            [log.number],
        )
        return {_int(n): peaks for n, peaks in rows if isinstance(peaks, bytes)}

    def leaves(
        self, log: ShippedLog, after: int = 0
    ) -> Iterator[tuple[int, str | None, bytes]]:
        """Yield the log's events in order: number, body, hash as it was shipped.

        The body is None if the database's owner has removed the event.
        """
        while True:
            rows = self._rows(
                "SELECT sequence, body, leaf FROM vitrail.event "
                "WHERE log = %s AND sequence > %s "
                "UNION ALL SELECT sequence, NULL, leaf FROM vitrail.leaf "
                "WHERE log = %s AND sequence > %s ORDER BY sequence LIMIT %s",
                [log.number, after, log.number, after, _PAGE],
            )
            for sequence, body, leaf in rows:
                after = _int(sequence)
                text = None if body is None else str(body)
                yield after, text, leaf if isinstance(leaf, bytes) else b""
            if not rows:
                return

    def cursor(self, found: Found) -> str:
        """Everything that had arrived when the question was asked."""
        del found
        return self.horizon

    async def follow(
        self, filters: Filters, *, shown: Found | None = None, cursor: str = ""
    ) -> AsyncGenerator[Found, None]:
        """Yield events as they arrive after the question, until cancelled.

        In the order of their times within what arrives together.  For
        ``contextlib.aclosing``.
        """
        del shown, cursor  # the events after it have been shown
        before = _read_cursor(self.horizon)
        while True:
            now = await in_thread(self._now)
            for found in self._find(filters, _spans(before, now), None, False):  # noqa: FBT003
                yield found
            before = now
            await trio.sleep(_FOLLOW_SECONDS)

    def _now(self) -> dict[int, int]:
        """The number of each log's newest event."""
        # No transaction of another machine may hold back these events.
        rows = self._rows("SELECT log, sequence FROM vitrail.head", [])
        return {_int(log): _int(last) for log, last in rows if last}

    def counts(self, filters: Filters, top: int) -> Counts:
        """Count matching events; of each field the ``top`` most frequent values."""
        if replace(filters, machines=(), owners=(), since_ns=None, until_ns=None) == (
            Filters()
        ):
            return counted(self.rows, filters, top, self.machines)
        where, values = self._where(filters)
        return count(self.rows, where, values, top)

    def rows(self, query: str, values: Sequence[object]) -> list[tuple[object, ...]]:
        """Run a query.  Raises UpstreamError."""
        return self._rows(query, values)

    def _rows(self, query: str, values: Sequence[object]) -> list[tuple[object, ...]]:
        """Run a query with a time limit; return the rows.  Raises UpstreamError."""
        try:
            # For this transaction only: a pooler gives the session to others, too.
            self._connection.execute(
                "SELECT set_config('statement_timeout', %s, true)", [self._milliseconds]
            )
            rows = self._connection.execute(query, values).fetchall()
            # No transaction stays open: it would keep old rows from being cleaned up.
            self._connection.rollback()
        except Error as error:
            raise problem(error) from error
        return rows


class _Shape(msgspec.Struct):
    """What every reader takes for granted of an event, whatever its kind."""

    sandbox: str = ""
    lease: str = ""
    service: str = ""
    argument: str = ""
    peer: str = ""
    object: str = ""
    outcome: str = ""
    reason: str = ""
    broker: str = ""
    boot: str = ""
    verdict: str = ""
    rule: str = ""
    count: int = 1
    detail: dict[str, Scalar] = {}


_shape = msgspec.json.Decoder(_Shape)


def _readable(untrusted_body: str, kind: str) -> str:
    """Return the body, or our own text where it is malformed.

    One machine's rows must not keep a user from those of all the others.
    """
    # guard: a machine's rows do not end a fleet's questions
    with suppress(*UNREADABLE):
        try:
            schema.decode(untrusted_body)
        except UNREADABLE:
            _shape.decode(untrusted_body)  # of a later version
        return untrusted_body
    said = {"kind": kind, "reason": "the machine shipped data that is not an event"}
    return msgspec.json.encode(said).decode()


def _read_cursor(cursor: str) -> dict[int, int]:
    """Parse a cursor: the last event of each log.  Raises UsageError."""
    found = _CURSOR.fullmatch(cursor or "l=")
    if found is None:
        raise click.UsageError(
            f"{printable(cursor, 80)!r} is not a cursor of a fleet's store"
        )
    pairs = (pair.split(":") for pair in (found[1] or "").split(",") if pair)
    return {int(log): int(last) for log, last in pairs}


def _cursor(places: Mapping[int, int]) -> str:
    return "l=" + ",".join(f"{log}:{last}" for log, last in sorted(places.items()))


def _spans(begin: Mapping[int, int], end: Mapping[int, int]) -> list[_Span]:
    spans = [(log, begin.get(log, 0), last) for log, last in end.items()]
    return [span for span in spans if span[1] < span[2]]


def _in_body(field: str, wanted: Sequence[str]) -> tuple[str, list[object]]:
    """The condition of a field that has no column."""
    text = f"vitrail.text_of(body, '{field}')"
    return f"{text} ILIKE ANY(%s)", [[_like(_coded(one)) for one in wanted]]


def _objects(wanted: Sequence[str]) -> tuple[str, list[object]]:
    """Return the condition of the requested object; by hash where it is exact."""
    exact = [_coded(one) for one in wanted if not any(c in one for c in "*?[")]
    patterns = [_like(_coded(one)) for one in wanted if any(c in one for c in "*?[")]
    text = "vitrail.text_of(body, 'object')"
    parts: list[str] = []
    values: list[object] = []
    if exact:
        parts.append(
            "object_hash = ANY(ARRAY(SELECT hashtextextended(one, 0) FROM unnest(%s::text[]) AS one)) "
            "AND vitrail.text_of(body, 'object') = ANY(%s)"
        )
        values += [exact, exact]
    if patterns:
        parts.append(f"{_HAS_OBJECT} AND {text} LIKE ANY(%s)")
        values.append(patterns)
    return f"({' OR '.join(f'({part})' for part in parts)})", values


def _coded(text: str) -> str:
    """Return a text as it is encoded in an event's JSON."""
    return msgspec.json.encode(text).decode()[1:-1]


def _like(pattern: str) -> str:
    """Return a shell's pattern as one of SQL's LIKE, which escapes by a backslash.

    A set of characters matches any character: who needs it exactly looks again.
    """
    text = re.sub(r"([\\%_])", r"\\\1", pattern)
    return re.sub(r"\[.[^\]]*\]|[?]", "_", text).replace("*", "%")


def _int(value: object) -> int:
    return value if isinstance(value, int) else int(str(value))


@contextmanager
def open_fleet(address: str) -> Iterator[Fleet]:
    """Connect for reading; a question may take ``ask_seconds()``.

    Raises SetupError when nothing was ever shipped there, by a newer Vitrail, or its
    tables are older; UpstreamError when the database fails.
    """
    with opened(address, read_only=True) as connection:
        version = usable(connection)
        connection.rollback()
        if version == 0:
            raise SetupError(
                "the database does not have Vitrail's tables: nothing has been shipped to it",
                hint="name the database in a machine's ship.toml; see docs/audit.md, "
                "'Shipping'",
            )
        if version < VERSION:
            raise SetupError(
                f"the database's tables have version {version} instead of {VERSION}",
                hint="to update the tables, run 'brokerctl audit fleet init --store ADDRESS' as the "
                "database's owner",
            )
        yield Fleet(connection, ask_seconds())


def ask_seconds() -> float:
    """Return the time limit of a query: VITRAIL_ASK_SECONDS, or ten minutes.

    Raises SetupError.
    """
    text = os.environ.get("VITRAIL_ASK_SECONDS", "600")
    if not re.fullmatch(r"\d{1,6}", text) or not int(text):
        raise SetupError("VITRAIL_ASK_SECONDS is not a number of seconds")
    return float(text)
