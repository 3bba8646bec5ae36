"""How a question to a log of any size is answered quickly.

SQLite's planner knows nothing of how common a value is, so we look.  Where
some condition is fulfilled by few events, its index finds them and the other
conditions are only checked on those.  Otherwise the log is read in its own
order, in pages, and what does not match is passed over.

Conditions that are to be checked only have a ``+`` before their column, which
keeps SQLite from using an index for them (its documentation, "Query Planner").

The shipper and brokerctl run it, each in its own process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from broker.ipc.audit.filters import NAMED, Filters, choose, kinds_among

Rows = Callable[[str, Sequence[str | int]], list[tuple[Any, ...]]]

FEW = 20_000
"""Events of one condition that are looked up without a thought: milliseconds."""


@dataclass(frozen=True)
class Boot:
    """The events of one boot are those from ``first`` to ``last``."""

    boot: str
    first: int
    last: int
    first_ns: int
    last_ns: int


@dataclass(frozen=True)
class Plan:
    """A condition in SQL with its values.

    ``few``: so few events match that all their numbers can be asked for.
    """

    where: str
    values: tuple[str | int, ...] = ()
    few: bool = False


@dataclass(frozen=True)
class _Condition:
    """A piece of a WHERE, and the same written so that no index is used for it."""

    indexed: str
    plain: str
    values: tuple[str | int, ...]
    ordered: bool = False
    """Whether the index gives its rows in the order of their numbers."""


_NOTHING = _Condition("", "", ())


class Planner:
    """Makes plans for one log."""

    def __init__(self, rows: Rows) -> None:
        """Set up a planner; ``rows`` runs a query on the database."""
        self._rows = rows
        columns = {str(row[1]) for row in rows("PRAGMA table_info(event)", [])}
        self.leaves = "leaf" in columns
        """Whether each event has its hash beside it."""
        # A log of version 1 has no columns of its own for some fields.
        self.column = {
            name: name if name in columns else f"coalesce(body ->> '$.{name}', '')"
            for name in ("kind", *NAMED, "boot")
        }

    def plan(self, filters: Filters, *, newest_first: bool = False) -> Plan | None:
        """Return the plan that finds the matching events; None: nothing can match."""
        conditions = [*self._conditions(filters)]
        if any(not condition.indexed for condition in conditions):
            return None
        counts = [self._count(condition) for condition in conditions]
        leads = min(range(len(counts)), key=lambda n: (counts[n], n), default=-1)
        few = leads >= 0 and counts[leads] < FEW
        if leads >= 0 and not few:
            ordered = [n for n, c in enumerate(conditions) if c.ordered]
            leads = ordered[0] if ordered else -1
        parts = ["1"]
        values: list[str | int] = []
        for number, condition in enumerate(conditions):
            parts.append(condition.indexed if number == leads else condition.plain)
            values += condition.values
        if not few:
            bound, value = self._bound(filters, newest_first=newest_first)
            parts += bound
            values += value
        return Plan(" AND ".join(parts), tuple(values), few)

    def _conditions(self, filters: Filters) -> Iterator[_Condition]:
        """Yield an SQL condition for each restriction of the filters."""
        for field, wanted in filters.named().items():
            chosen = choose(field, wanted, partial(self.values, field))
            if field == "sandbox":
                chosen += self._of_records(chosen)
            yield self._among(field, chosen)
        if filters.kinds:
            yield self._among("kind", kinds_among(self.values("kind"), filters.kinds))
        for wanted in filter(None, [filters.objects]):
            object_ = "coalesce(body ->> '$.object', '')"
            any_ = " OR ".join(f"{object_} GLOB ?" for _ in wanted)
            yield _Condition(f"({any_})", f"({any_})", tuple(wanted))
        low, high = filters.since_ns, filters.until_ns
        if low is not None or high is not None:
            low = -(1 << 63) if low is None else low
            high = (1 << 63) - 1 if high is None else high
            between = "time_ns BETWEEN ? AND ?"
            yield _Condition(f"({between})", f"(+{between})", (low, high))
        if filters.boot:
            yield self._boot(filters.boot)

    def _of_records(self, names: Sequence[str]) -> list[str]:
        """Return the sandboxes that leases began for records of these names.

        Those among the names are left out.
        """
        marks = ", ".join("?" * len(names))
        record = "body ->> '$.record'"
        rows = self._rows(
            f"SELECT DISTINCT {self.column['sandbox']} FROM event "  # noqa: S608
            f"WHERE kind = 'lease.begin' AND {record} IN ({marks})",
            list(names),
        )
        return [str(row[0]) for row in rows if row[0] not in names]

    def _among(self, field: str, values: Sequence[str]) -> _Condition:
        """Return the condition that a field has any of these values."""
        if not values:
            return _NOTHING
        column = self.column[field]
        marks = ", ".join("?" * len(values))
        # "!= ''" is what the partial indexes are made with.
        indexed = f"({column} != '' AND {column} IN ({marks}))"
        plain = f"+{column} IN ({marks})"
        return _Condition(indexed, plain, tuple(values), ordered=len(values) == 1)

    def _boot(self, boot: str) -> _Condition:
        for known in self.boots():
            if known.boot == boot:
                text = "(sequence BETWEEN ? AND ?)"
                return _Condition(text, text, (known.first, known.last), ordered=True)
        return _NOTHING

    def _count(self, condition: _Condition) -> int:
        """Count the rows that fulfil a condition.

        ``FEW`` when there are that many or more.
        """
        query = (
            f"SELECT count(*) FROM (SELECT 1 FROM event WHERE {condition.indexed} "  # noqa: S608
            f"LIMIT {FEW})"
        )
        return int(self._rows(query, condition.values)[0][0])

    def _bound(
        self, filters: Filters, *, newest_first: bool
    ) -> tuple[list[str], list[int]]:
        """Return the SQL bound on the numbers, where a time filter gives one.

        A clock may have been set back, so it is looked for among all the times.
        """
        if newest_first and filters.until_ns is not None:
            found = "SELECT max(+sequence) FROM event WHERE time_ns <= ?"
            sign, moment = "<=", filters.until_ns
        elif not newest_first and filters.since_ns is not None:
            found = "SELECT min(+sequence) FROM event WHERE time_ns >= ?"
            sign, moment = ">=", filters.since_ns
        else:
            return [], []
        (row,) = self._rows(found, [moment])
        return [f"sequence {sign} ?"], [int(row[0] or 0)]

    # -- what there is --------------------------------------------------------------

    def values(self, field: str) -> list[str]:
        """Return the different values of an event field in the log."""
        column = self.column[field]
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
        """Return the boots that the log has seen, oldest first.

        A log has one writer, so the events of a boot are together, and they
        begin with a broker's start.
        """
        boot = self.column["boot"]
        starts = self._rows(
            f"SELECT sequence, {boot} FROM event WHERE kind = 'broker.start' UNION "  # noqa: S608
            f"SELECT sequence, {boot} FROM event "
            "WHERE sequence = (SELECT min(sequence) FROM event) ORDER BY 1",
            [],
        )
        firsts: list[tuple[int, str]] = []
        for sequence, name in starts:
            if not firsts or firsts[-1][1] != name:
                firsts.append((sequence, name))
        (newest,) = self._rows("SELECT coalesce(max(sequence), 0) FROM event", [])
        ends = [first - 1 for first, _name in firsts[1:]] + [int(newest[0])]
        return [
            Boot(name, first, end, self._time(first), self._time(end))
            for (first, name), end in zip(firsts, ends, strict=True)
        ]

    def _time(self, sequence: int) -> int:
        rows = self._rows("SELECT time_ns FROM event WHERE sequence = ?", [sequence])
        return int(rows[0][0]) if rows else 0
