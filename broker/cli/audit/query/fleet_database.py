"""Queries of the fleet's database: the same filters, the events of all machines.

Events come in the order of their times, as each log counts from 1.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import msgspec
import trio

from broker.core.errors import SetupError
from broker.helpers.shipper.database import (
    MIGRATIONS,
    Connection,
    Error,
    connect,
    problem,
    version_of,
)
from broker.ipc.audit import schema
from broker.ipc.audit.counts import FIELDS, Counts, Traffic
from broker.ipc.audit.event import Scalar
from broker.ipc.audit.filters import Filters, Found, choose

_FOLLOW_SECONDS = 1.0
_PAGE = 1000
_CURSOR = re.compile(r"l=((?:\d{1,10}:\d{1,19})(?:,\d{1,10}:\d{1,19})*)?")

# A machine's role can put any text into its own rows.  A body that is not JSON, or a
# word in the place of a number, must not end the questions about all machines, as a
# cast would.  In a body of ours a text cannot look like a field: its quotes are escaped.
# guard: numbers of a fleet are looked for, not cast
_NUMBER = r"""substring(body from '"{}":(\d{{1,18}}(?:\.\d{{1,20}})?(?:[eE]-?\d{{1,2}})?)[,}}]')::numeric"""
_RECORD = r"""substring(body from '"record":"([^"\\]*)"')"""

_Place = tuple[int, int, int]
"""Time, log and number: where an event stands in the order."""
_Span = tuple[int, int, int]
"""A log, and numbers: events after the first one, up to the second."""


@dataclass(frozen=True)
class FleetLog:
    """One log of those that are shipped there."""

    number: int
    name: str
    """The end of its checkpoints' origin, hex."""
    machine: str
    role: str
    """The role of the database that has made it; a name has one."""


class Fleet:
    """The database, opened for reading; made by ``open_fleet``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.horizon = ""
        """The newest event of each log when ``find`` was called; the cursor to go on
        with.  A log is shipped in its order, so nothing comes before it later."""

    def find(
        self,
        filters: Filters,
        *,
        cursor: str = "",
        last: int | None = None,
        newest_first: bool = False,
    ) -> Iterator[Found]:
        """Yield the events that match, oldest first by default.

        ``cursor`` is an earlier ``horizon``; ``last`` keeps only the newest.
        Raises UpstreamError when the database fails, ValueError for a cursor
        that is none.
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
        order = "DESC" if newest_first else "ASC"
        if place is not None:
            sign = "<" if newest_first else ">"
            where += f" AND (place_ns, event.log, sequence) {sign} (%s, %s, %s)"
            values = [*values, *place]
        # Only our own words go into the text; every value is bound.
        return self._rows(
            "SELECT sequence, time_ns, place_ns, kind, sandbox, body, machine, name, "  # noqa: S608
            "event.log FROM vitrail.event JOIN vitrail.log ON log.id = event.log "
            "JOIN unnest(%s::integer[], %s::bigint[], %s::bigint[]) "
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
        parts = ["true"]
        values: list[object] = []
        for field, wanted in filters.named().items():
            chosen = choose(field, wanted, partial(self.values, field))
            if field == "sandbox":
                chosen += self._of_records(chosen)
            parts.append(f"({field} = ANY(%s) AND {field} <> '')")
            values.append(chosen)
        if filters.kinds:
            parts.append("kind = ANY(%s)")
            values.append(self._kinds(filters.kinds))
        if filters.boot:
            parts.append("replace(boot, '-', '') = %s")
            values.append(filters.boot.replace("-", ""))
        if filters.machines:
            wanted = choose("machine", filters.machines, self.machines)
            parts.append(
                "event.log IN (SELECT id FROM vitrail.log WHERE machine = ANY(%s))"
            )
            values.append(wanted)
        for sign, moment in ((">=", filters.since_ns), ("<=", filters.until_ns)):
            if moment is not None:
                parts.append(f"place_ns {sign} %s")
                values.append(moment)
        return " AND ".join(parts), values

    def _kinds(self, kinds: Sequence[str]) -> list[str]:
        return [
            kind
            for kind in self.values("kind")
            if kind in kinds or kind.partition(".")[0] in kinds
        ]

    def values(self, field: str) -> list[str]:
        """The values that a column has had: one look into the index for each."""
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

    def logs(self, machines: Sequence[str]) -> list[FleetLog]:
        """The logs of these machines, or all."""
        wanted = choose("machine", machines or ["*"], self.machines)
        rows = self._rows(
            "SELECT id, name, machine, owner FROM vitrail.log WHERE machine = ANY(%s) "
            "ORDER BY machine, id",
            [wanted],
        )
        return [
            FleetLog(_int(number), name.hex(), str(machine), str(role))
            for number, name, machine, role in rows
            if isinstance(name, bytes)
        ]

    def notes(self, log: FleetLog) -> list[str]:
        """The log's signed checkpoints, by size."""
        rows = self._rows(
            "SELECT note FROM vitrail.checkpoint WHERE log = %s ORDER BY size, kind",
            [log.number],
        )
        return [str(note) for (note,) in rows]

    def leaves(self, log: FleetLog) -> Iterator[tuple[int, str | None, bytes]]:
        """The log's events in their order: number, body, hash as it was shipped.

        The body is None where the database's owner has removed the event.
        """
        after = 0
        while True:
            rows = self._rows(
                "SELECT sequence, body, leaf FROM vitrail.event "
                "WHERE log = %s AND sequence > %s "
                "UNION ALL SELECT sequence, NULL, leaf FROM vitrail.leaf "
                "WHERE log = %s AND sequence > %s ORDER BY sequence LIMIT %s",
                [log.number, after, log.number, after, 5 * _PAGE],
            )
            for sequence, body, leaf in rows:
                after = _int(sequence)
                text = None if body is None else str(body)
                yield after, text, leaf if isinstance(leaf, bytes) else b""
            if not rows:
                return

    async def follow(
        self, filters: Filters, *, cursor: str
    ) -> AsyncGenerator[Found, None]:
        """Yield events as they arrive, after ``cursor``, until cancelled.

        In the order of their times within what arrives together.  For
        ``contextlib.aclosing``.
        """
        before = _read_cursor(cursor)
        while True:
            now = await trio.to_thread.run_sync(self._now)
            for found in self._find(filters, _spans(before, now), None, False):  # noqa: FBT003
                yield found
            before = now
            await trio.sleep(_FOLLOW_SECONDS)

    def _now(self) -> dict[int, int]:
        """The number of each log's newest event."""
        # No transaction of another machine may hold back what is here.
        rows = self._rows(
            "SELECT id, (SELECT max(sequence) FROM vitrail.event WHERE log = log.id) "
            "FROM vitrail.log",
            [],
        )
        return {_int(log): _int(last) for log, last in rows if last is not None}

    def counts(self, filters: Filters, top: int) -> Counts:
        """Count what matches; of each field the ``top`` most frequent values."""
        where, values = self._where(filters)
        (whole,) = self._rows(
            "SELECT count(*), coalesce(min(place_ns), 0), coalesce(max(place_ns), 0), "  # noqa: S608
            "coalesce(sum(CASE WHEN kind IN ('stream.refused', 'lease.refused', "
            f"'link.refused') THEN coalesce({_NUMBER.format('count')}, 1) END), 0) "
            f"FROM vitrail.event WHERE {where}",
            values,
        )

        def ask(what: str, extra: str, most: int) -> list[tuple[object, ...]]:
            return self._rows(
                f"SELECT {what} FROM vitrail.event WHERE {extra} AND {where} "  # noqa: S608
                "GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT %s",
                [*values, most],
            )

        def pairs(what: str, extra: str, most: int = top) -> list[tuple[str, int]]:
            return [(str(v), _int(n)) for v, n in ask(f"{what}, count(*)", extra, most)]

        out, back, took = (
            f"sum(coalesce({_NUMBER.format(name)}, 0))"
            for name in ("bytes_from_sandbox", "bytes_to_sandbox", "seconds")
        )
        traffic = ask(
            f"sandbox, {out} + {back}, count(*), {out}, {back}, {took}",
            "kind = 'stream.closed'",
            top,
        )
        events, first, last, refused = map(_int, whole)
        return Counts(
            events,
            first,
            last,
            by={name: pairs(name, f"{name} <> ''") for name in FIELDS},
            traffic=[
                Traffic(str(r[0]), _int(r[2]), _int(r[3]), _int(r[4]), float(str(r[5])))
                for r in traffic
            ],
            denied=pairs("sandbox", "verdict = 'deny'", 1 << 31),
            refusals=refused,
        )

    def _rows(self, query: str, values: Sequence[object]) -> list[tuple[object, ...]]:
        try:
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
    """The body, or one of ours that says that it is none.

    One machine's rows must not keep a user from those of all the others.
    """
    # guard: a machine's rows do not end a fleet's questions
    with suppress(msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        try:
            schema.decode(untrusted_body)
        except msgspec.DecodeError:
            _shape.decode(untrusted_body)  # of a later version
        return untrusted_body
    said = {"kind": kind, "reason": "what this machine has shipped is not an event"}
    return msgspec.json.encode(said).decode()


def _read_cursor(cursor: str) -> dict[int, int]:
    found = _CURSOR.fullmatch(cursor or "l=")
    if found is None:
        raise ValueError(cursor)
    pairs = (pair.split(":") for pair in (found[1] or "").split(",") if pair)
    return {int(log): int(last) for log, last in pairs}


def _cursor(places: Mapping[int, int]) -> str:
    return "l=" + ",".join(f"{log}:{last}" for log, last in sorted(places.items()))


def _spans(begin: Mapping[int, int], end: Mapping[int, int]) -> list[_Span]:
    spans = [(log, begin.get(log, 0), last) for log, last in end.items()]
    return [span for span in spans if span[1] < span[2]]


def _int(value: object) -> int:
    return value if isinstance(value, int) else int(str(value))


@contextmanager
def open_fleet(address: str) -> Iterator[Fleet]:
    """Connect for reading.

    Raises SetupError when nothing was ever shipped there, or by a newer
    Vitrail; UpstreamError when the database fails.
    """
    connection = connect(address, read_only=True)
    try:
        try:
            version = version_of(connection)
            connection.rollback()
        except Error as error:
            raise problem(error) from error
        if version == 0:
            raise SetupError(
                "nothing has been shipped to this database yet",
                hint="a machine's ship.toml names it: docs/audit.md, 'Shipping'",
            )
        if version > len(MIGRATIONS):
            raise SetupError(
                f"the database was made by a newer Vitrail (version {version}, this "
                f"one knows {len(MIGRATIONS)})",
                hint="ask from a machine that is up to date",
            )
        yield Fleet(connection)
    finally:
        connection.close()
