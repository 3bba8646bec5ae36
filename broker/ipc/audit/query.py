"""Queries of the audit log's file, by brokerctl and by the shipper.

A broker may run meanwhile or not: the database is opened read-only, so that a query can
neither block nor change the record.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from broker.core.errors import IntegrityError, UpstreamError
from broker.ipc.audit.counts import Counts, count_local
from broker.ipc.audit.database import log_identity, open_reading
from broker.ipc.audit.filters import Filters, Found
from broker.ipc.audit.nodes import Nodes
from broker.ipc.audit.plan import Boot, Plan, Planner
from broker.ipc.audit.tree import leaf_hash

FOLLOW_SECONDS = 0.2
"""Between two looks at the database's change counter while following."""

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_PAGE = 1000
_ALL = (1 << 63) - 1
_COLUMNS = "sequence, time_ns, kind, sandbox, body"


class Log:
    """An audit log opened for reading; made by ``open_log``."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._planner = Planner(self._rows)

    # -- finding ------------------------------------------------------------------

    def find(
        self,
        filters: Filters,
        *,
        after: int = 0,
        before: int = _ALL,
        last: int | None = None,
        newest_first: bool = False,
    ) -> Iterator[Found]:
        """Yield the events that match, oldest first by default.

        ``after`` and ``before`` are sequence numbers; ``last`` keeps only so many, the newest.
        Raises UpstreamError when the database cannot be read.
        """
        if last is not None and not newest_first:
            between = partial(self.find, filters, after=after, before=before)
            yield from reversed([*between(last=last, newest_first=True)])
            return
        plan = self._planner.plan(filters, newest_first=newest_first)
        if plan is None:
            return
        if plan.few:
            found = self._few(plan, after, before, newest_first=newest_first)
        else:
            found = self._pages(plan, after, before, last, newest_first=newest_first)
        yield from islice(found, last)

    def _few(
        self, plan: Plan, after: int, before: int, *, newest_first: bool
    ) -> Iterator[Found]:
        """Yield a plan's few matches: their numbers are sorted first."""
        # Only our own words go into the texts; every value is bound.
        query = f"SELECT sequence FROM event WHERE {plan.where}"  # noqa: S608
        found = (int(row[0]) for row in self._rows(query, plan.values))
        numbers = [number for number in found if after < number < before]
        numbers.sort(reverse=newest_first)
        order = "DESC" if newest_first else "ASC"
        for begin in range(0, len(numbers), _PAGE):
            page = numbers[begin : begin + _PAGE]
            marks = ", ".join("?" * len(page))
            query = (
                f"SELECT {_COLUMNS} FROM event WHERE sequence IN ({marks}) "  # noqa: S608
                f"ORDER BY sequence {order}"
            )
            yield from (Found(*row) for row in self._rows(query, page))

    def _pages(
        self,
        plan: Plan,
        after: int,
        before: int,
        last: int | None,
        *,
        newest_first: bool,
    ) -> Iterator[Found]:
        """Yield the events of a plan with many matches, page by page in log order."""
        order = "DESC" if newest_first else "ASC"
        query = (
            f"SELECT {_COLUMNS} FROM event WHERE sequence > ? AND sequence < ? "  # noqa: S608
            f"AND {plan.where} ORDER BY sequence {order} LIMIT ?"
        )
        size = _PAGE if last is None else min(last, _PAGE)
        # In pages: an open read transaction would keep the log from being
        # checkpointed for as long as a reader pages through it.
        while size:
            rows = self._rows(query, [after, before, *plan.values, size])
            yield from (Found(*row) for row in rows)
            if len(rows) < size:
                return
            if newest_first:
                before = rows[-1][0]
            else:
                after = rows[-1][0]

    # -- what there is --------------------------------------------------------------

    def newest(self) -> int:
        """The sequence number of the newest event, 0 when there is none."""
        return int(self._rows("SELECT coalesce(max(sequence), 0) FROM event", [])[0][0])

    def boots(self) -> list[Boot]:
        """The boots that the log has seen, oldest first."""
        return self._planner.boots()

    def counts(self, filters: Filters, top: int) -> Counts:
        """Count what matches; of each field the ``top`` most frequent values."""
        return count_local(self._rows, self._planner, filters, top)

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
        """Return the next events as they are: number, time, kind, body, leaf hash."""
        leaf = "leaf" if self._planner.leaves else "x''"
        return self._rows(
            f"SELECT sequence, time_ns, kind, body, {leaf} FROM event "  # noqa: S608
            "WHERE sequence > ? ORDER BY sequence LIMIT ?",
            [after, limit],
        )

    def identity(self) -> str:
        """The log's name as 32 hex digits: the end of its checkpoints' origin.

        "" when nothing of it was ever sealed (a log of version 1).
        """
        return log_identity(self._db)

    def notes(self, size: int, upto: int) -> list[tuple[int, str, str]]:
        """Return signed checkpoints that stay, of these sizes: size, kind, note."""
        if not self._rows("PRAGMA table_info(checkpoint)", []):
            return []
        return self._rows(
            "SELECT size, kind, note FROM checkpoint WHERE (kind = 'kept' OR "
            "substr(kind, 1, 4) = 'key ') "
            "AND size BETWEEN ? AND ? ORDER BY size, kind",
            [size, upto],
        )

    def nodes(self) -> Nodes:
        """The tree of the log, for proofs."""
        return Nodes(self._db)

    # -- waiting --------------------------------------------------------------------

    def version(self) -> int:
        """A number that changes with every commit of another connection."""
        return int(self._rows("PRAGMA data_version", [])[0][0])

    async def follow(
        self, filters: Filters, *, after: int
    ) -> AsyncGenerator[Found, None]:
        """Yield events that match as they are recorded, until cancelled.

        For ``contextlib.aclosing``.  Raises UpstreamError as ``find`` does.
        """
        import trio  # late: the other questions need no event loop

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
        """Run a query.  Raises UpstreamError, IntegrityError for a damaged log."""
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) in _DAMAGED:
                raise IntegrityError(
                    f"the audit log is damaged: {error}",
                    hint="keep the file for inspection; to locate the damage, run 'brokerctl audit verify'",
                ) from error
            raise UpstreamError(f"cannot read the audit log: {error}") from error


@contextmanager
def open_log(path: Path) -> Iterator[Log]:
    """Open the audit log for reading.

    Raises SetupError when there is none yet, or when it is not a log that this
    version can read; UpstreamError when the disk refuses.
    """
    with open_reading(path) as db:
        yield Log(db)
