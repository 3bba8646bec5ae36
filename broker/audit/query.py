"""Asking the audit log, whether a broker runs or not.

Opens the database read-only, so that a question can neither block nor change
what is recorded.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from broker.audit.database import open_reading
from broker.audit.filters import NAMED, Filters, Found, choose, kind_range
from broker.audit.tree import leaf_hash
from broker.core.errors import IntegrityError, UpstreamError

__all__ = ["Boot", "Filters", "Found", "Log", "open_log"]

FOLLOW_SECONDS = 0.2
"""Between two looks at the database's change counter while following."""

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_PAGE = 1000
_FEW = 20_000
"""Rows of one condition that are looked up one by one without a thought; a
condition that more rows fulfil is checked on the way through the log."""


@dataclass(frozen=True)
class Boot:
    """The events of one boot are those from ``first`` to ``last``."""

    boot: str
    first: int
    last: int
    first_ns: int
    last_ns: int


@dataclass(frozen=True)
class _Condition:
    """A piece of a WHERE, and the same said so that no index is used for it."""

    indexed: str
    plain: str
    values: tuple[str | int, ...]
    ordered: bool = False
    """Whether the index gives its rows in the order of their numbers."""


_NOTHING = _Condition("", "", ())


class Log:
    """An audit log opened for reading; made by ``open_log``."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        columns = {str(row[1]) for row in self._rows("PRAGMA table_info(event)", [])}
        self._leaves = "leaf" in columns
        # A log of version 1 has no columns of its own for some fields.
        self._column = {
            name: name if name in columns else f"coalesce(body ->> '$.{name}', '')"
            for name in (*NAMED, "boot")
        }

    # -- finding ------------------------------------------------------------------

    def find(
        self,
        filters: Filters,
        *,
        after: int = 0,
        last: int | None = None,
        newest_first: bool = False,
    ) -> Iterator[Found]:
        """Yield the events that match, oldest first unless told otherwise.

        ``after`` is a sequence number; ``last`` keeps only so many, the newest.
        Raises UpstreamError when the database cannot be read.
        """
        if last is not None and not newest_first:
            newest = [*self.find(filters, after=after, last=last, newest_first=True)]
            yield from reversed(newest)
            return
        where, values = self._where(filters)
        if where is None:
            return
        order = "DESC" if newest_first else "ASC"
        # Only our own words go into the text; every value is bound.
        query = (
            f"SELECT sequence, time_ns, kind, sandbox, body FROM event "  # noqa: S608
            f"WHERE sequence > ? AND sequence < ? AND {where} "
            f"ORDER BY sequence {order} LIMIT ?"
        )
        before = (1 << 63) - 1
        # In pages: an open read transaction would keep the log from being
        # checkpointed for as long as somebody pages through it.
        while last is None or last > 0:
            size = _PAGE if last is None else min(last, _PAGE)
            rows = self._rows(query, [after, before, *values, size])
            yield from (Found(*row) for row in rows)
            if len(rows) < size:
                return
            if newest_first:
                before = rows[-1][0]
            else:
                after = rows[-1][0]
            last = None if last is None else last - len(rows)

    def _where(self, filters: Filters) -> tuple[str | None, list[str | int]]:
        """The condition in SQL and its values; None: nothing can match."""
        conditions = [*self._named(filters), *self._times(filters)]
        if filters.boot:
            conditions.append(self._boot(filters.boot))
        if filters.kinds:
            conditions.append(_kinds(filters.kinds))
        if any(not c.indexed for c in conditions):
            return None, []
        # SQLite's planner knows nothing of how common a value is, so we look:
        # the rarest condition leads, if that is of use, and the others are only
        # checked.  Otherwise the log is read in its own order.
        counts = [self._count(c) for c in conditions]
        least = min(range(len(counts)), key=lambda n: (counts[n], n), default=-1)
        if least >= 0 and counts[least] >= _FEW:
            ordered = [n for n, c in enumerate(conditions) if c.ordered]
            least = ordered[0] if ordered else -1
        parts = ["1"]
        values: list[str | int] = []
        for number, condition in enumerate(conditions):
            parts.append(condition.indexed if number == least else condition.plain)
            values += condition.values
        return " AND ".join(parts), values

    def _named(self, filters: Filters) -> Iterator[_Condition]:
        for field, wanted in filters.named().items():
            column = self._column[field]
            values = choose(field, wanted, partial(self.values, field))
            if not values:
                yield _NOTHING
                return
            marks = ", ".join("?" * len(values))
            indexed = f"({column} != '' AND {column} IN ({marks}))"
            plain = f"+{column} IN ({marks})"
            yield _Condition(indexed, plain, tuple(values), ordered=len(values) == 1)

    def _times(self, filters: Filters) -> Iterator[_Condition]:
        low, high = filters.since_ns, filters.until_ns
        if low is None and high is None:
            return
        low = -(1 << 63) if low is None else low
        high = (1 << 63) - 1 if high is None else high
        between = "time_ns BETWEEN ? AND ?"
        # A clock may have been set back, so times bound the numbers only so.
        (bounds,) = self._rows(
            f"SELECT min(sequence), max(sequence) FROM event WHERE {between}",  # noqa: S608
            [low, high],
        )
        if bounds[0] is None:
            yield _NOTHING
            return
        first, end = int(bounds[0]), int(bounds[1])
        yield _Condition(
            f"({between} AND +sequence BETWEEN ? AND ?)",
            f"(+{between} AND sequence BETWEEN ? AND ?)",
            (low, high, first, end),
        )

    def _boot(self, boot: str) -> _Condition:
        for known in self.boots():
            if known.boot == boot:
                text = "(sequence BETWEEN ? AND ?)"
                return _Condition(text, text, (known.first, known.last))
        return _NOTHING

    def _count(self, condition: _Condition) -> int:
        """How many rows fulfil it; ``_FEW`` when they are that many or more."""
        query = (
            f"SELECT count(*) FROM (SELECT 1 FROM event WHERE {condition.indexed} "  # noqa: S608
            f"LIMIT {_FEW})"
        )
        return int(self._rows(query, condition.values)[0][0])

    # -- what there is --------------------------------------------------------------

    def newest(self) -> int:
        """The sequence number of the newest event, 0 when there is none."""
        return int(self._rows("SELECT coalesce(max(sequence), 0) FROM event", [])[0][0])

    def values(self, field: str) -> list[str]:
        """The values that a field has had, one of ``filters.NAMED``."""
        column = self._column[field]
        # One look into the index for each value, not one for each event.
        query = f"""
            WITH RECURSIVE found (x) AS (
                SELECT min({column}) FROM event WHERE {column} != ''
                UNION ALL
                SELECT (SELECT min({column}) FROM event
                        WHERE {column} > x AND {column} != '')
                FROM found WHERE x IS NOT NULL
            ) SELECT x FROM found WHERE x IS NOT NULL"""  # noqa: S608
        if column != field:
            query = f"SELECT DISTINCT {column} FROM event WHERE {column} != ''"  # noqa: S608
        return [str(row[0]) for row in self._rows(query, [])]

    def boots(self) -> list[Boot]:
        """The boots that the log has seen, oldest first.

        A log has one writer, so the events of a boot stand together, and they
        begin with a broker's start.
        """
        starts = self._rows(
            f"SELECT sequence, {self._column['boot']} FROM event "  # noqa: S608
            f"WHERE kind = 'broker.start' UNION "
            f"SELECT sequence, {self._column['boot']} FROM event "
            f"WHERE sequence = (SELECT min(sequence) FROM event) "
            "ORDER BY 1",
            [],
        )
        firsts: list[tuple[int, str]] = []
        for sequence, boot in starts:
            if not firsts or firsts[-1][1] != boot:
                firsts.append((sequence, boot))
        ends = [first - 1 for first, _boot in firsts[1:]] + [self.newest()]
        return [
            Boot(boot, first, end, self._time(first), self._time(end))
            for (first, boot), end in zip(firsts, ends, strict=True)
        ]

    def _time(self, sequence: int) -> int:
        rows = self._rows("SELECT time_ns FROM event WHERE sequence = ?", [sequence])
        return int(rows[0][0]) if rows else 0

    def digest(self, sequence: int) -> str:
        """The leaf hash of an event as hex (RFC 6962, 2.1), "" if it is not there."""
        rows = self._rows("SELECT body FROM event WHERE sequence = ?", [sequence])
        if not rows or not rows[0][0]:
            return ""
        return leaf_hash(str(rows[0][0]).encode()).hex()

    def check(self) -> str:
        """Return ``ok``, or what SQLite finds wrong with the file."""
        return str(self._rows("PRAGMA quick_check(1)", [])[0][0])

    # -- sending on ------------------------------------------------------------------

    def read(self, after: int, limit: int) -> list[tuple[int, int, str, str, bytes]]:
        """The next events as they are: number, time, kind, body, leaf hash."""
        leaf = "leaf" if self._leaves else "x''"
        return self._rows(
            f"SELECT sequence, time_ns, kind, body, {leaf} FROM event "  # noqa: S608
            "WHERE sequence > ? ORDER BY sequence LIMIT ?",
            [after, limit],
        )

    def identity(self) -> str:
        """The hash of the log's first event as hex: no other log has it.

        "" when there is no event yet, or when retention has removed the first.
        """
        return self.digest(1)

    # -- waiting --------------------------------------------------------------------

    def version(self) -> int:
        """A number that changes with every commit of somebody else."""
        return int(self._rows("PRAGMA data_version", [])[0][0])

    async def follow(
        self, filters: Filters, *, after: int
    ) -> AsyncGenerator[Found, None]:
        """Yield events that match as they are recorded, until cancelled.

        For ``contextlib.aclosing``.  Raises UpstreamError as ``find`` does.
        """
        seen = -1
        while True:
            version = self.version()
            if version != seen:
                seen = version
                newest = self.newest()
                for found in self.find(filters, after=after):
                    after = found.sequence
                    yield found
                after = max(after, newest)
            await trio.sleep(FOLLOW_SECONDS)

    def rows(
        self, query: str, values: Sequence[str | int] = ()
    ) -> list[tuple[Any, ...]]:
        """Ask in SQL; for statistics.  Raises UpstreamError."""
        return self._rows(query, values)

    def _rows(self, query: str, values: Sequence[str | int]) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) in _DAMAGED:
                raise IntegrityError(
                    f"the audit log is damaged: {error}",
                    hint="keep the file for a look; 'brokerctl audit verify' says where",
                ) from error
            raise UpstreamError(f"the audit log cannot be read: {error}") from error


def _kinds(kinds: Sequence[str]) -> _Condition:
    one = "(kind = ? OR (kind >= ? AND kind < ?))"
    text = f"({' OR '.join([one] * len(kinds))})"
    values = [part for kind in kinds for part in (kind, *kind_range(kind))]
    return _Condition(text, text.replace("kind ", "+kind "), tuple(values))


@contextmanager
def open_log(path: Path) -> Iterator[Log]:
    """Open the audit log for reading.

    Raises SetupError when there is none yet, or when it is not one that this
    version can read; UpstreamError when the disk refuses.
    """
    with open_reading(path) as db:
        yield Log(db)
