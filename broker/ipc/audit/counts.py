"""Counts of events by kind: the numbers of ``brokerctl audit stats``.

Counted in the database, by its indexes where nothing is filtered.

brokerctl runs this on the file.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from broker.ipc.audit.filters import Filters
from broker.ipc.audit.plan import Plan, Planner, Rows

FIELDS = ("kind", "verdict", "sandbox", "service", "rule", "peer", "outcome")
"""Fields whose values are counted."""


@dataclass(frozen=True)
class Traffic:
    """Traffic of a sandbox's closed streams."""

    sandbox: str
    streams: int
    sent: int
    """Bytes from the sandbox."""
    got: int
    """Bytes to the sandbox."""
    seconds: float


@dataclass(frozen=True)
class Counts:
    """The numbers."""

    events: int
    first_ns: int = 0
    last_ns: int = 0
    by: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    """For each of ``FIELDS`` its values and how many events have them, the most
    frequent first; "" is left out."""
    traffic: list[Traffic] = field(default_factory=list)
    """The largest first."""
    denied: list[tuple[str, int]] = field(default_factory=list)
    """For each sandbox the denied decisions, if any; the largest number first."""
    refusals: int = 0
    """Connections and requests that were refused, each counted."""


def count_local(rows: Rows, planner: Planner, filters: Filters, top: int) -> Counts:
    """Count what matches in a log; of each field the ``top`` most frequent values."""
    plan = planner.plan(filters)
    if plan is None:
        return Counts(0)
    if plan.few or filters == Filters():
        return _by_index(rows, planner, plan, top)
    return _in_one_pass(rows, planner, plan, top)


def _by_index(rows: Rows, planner: Planner, plan: Plan, top: int) -> Counts:
    """Query each number separately: quick where indexes answer them."""

    def ask(what: str, extra: str = "1", tail: str = "") -> list[tuple[Any, ...]]:
        # Only our own words go into the text; every value is bound.
        query = f"SELECT {what} FROM event WHERE {extra} AND {plan.where} {tail}"  # noqa: S608
        return rows(query, plan.values)

    ranking = f"GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {int(top)}"
    # total(), because sum() of two large integers is an error: some counts are a
    # worker's claim, and two of them would keep every reader from all numbers.
    # guard: claims of bytes are added without an end
    total = "total(coalesce(body ->> '$.{}', 0))"
    out, back, took = (
        total.format(name)
        for name in ("bytes_from_sandbox", "bytes_to_sandbox", "seconds")
    )
    span = "count(*), coalesce(min(time_ns), 0), coalesce(max(time_ns), 0)"
    events, first, last = ask(span)[0]
    column = planner.column
    traffic = ask(
        f"sandbox, {out} + {back}, count(*), {out}, {back}, {took}",
        "kind = 'stream.closed'",
        ranking,
    )
    refused = ask(
        "total(coalesce(body ->> '$.count', 1))",
        "kind IN ('stream.refused', 'lease.refused', 'link.refused')",
    )
    return Counts(
        events,
        first,
        last,
        by={
            name: ask(f"{column[name]}, count(*)", f"{column[name]} != ''", ranking)
            for name in FIELDS
        },
        traffic=[
            Traffic(name, streams, int(sent), int(got), seconds)
            for name, _both, streams, sent, got, seconds in traffic
        ],
        denied=ask(
            "sandbox, count(*)",
            f"{column['verdict']} = 'deny'",
            "GROUP BY 1 ORDER BY 2 DESC, 1",
        ),
        refusals=int(refused[0][0]),
    )


_STEP = 50_000


def _in_one_pass(rows: Rows, planner: Planner, plan: Plan, top: int) -> Counts:
    """Read every matching event once and count all numbers; for many matching events."""
    tally = _Tally()
    columns = ", ".join(planner.column[name] for name in FIELDS)
    moved = ", ".join(
        f"CASE WHEN kind = 'stream.closed' THEN coalesce(body ->> '$.{name}', 0) END"
        for name in ("bytes_from_sandbox", "bytes_to_sandbox", "seconds")
    )
    times = (
        "CASE WHEN kind IN ('stream.refused', 'lease.refused', 'link.refused') THEN "
    )
    times += "coalesce(body ->> '$.count', 1) ELSE 0 END"
    # Only our own words go into the text; every value is bound.
    query = (
        f"SELECT sequence, time_ns, {times}, {moved}, {columns} FROM event "  # noqa: S608
        f"WHERE sequence > ? AND {plan.where} ORDER BY sequence LIMIT {_STEP}"
    )
    after = 0
    while True:
        found = rows(query, [after, *plan.values])
        for row in found:
            tally.take(row)
        if len(found) < _STEP:
            return tally.counts(top)
        after = found[-1][0]


class _Tally:
    def __init__(self) -> None:
        self._events = self._refusals = 0
        self._first = self._last = 0
        self._by: list[Counter[str]] = [Counter() for _ in FIELDS]
        self._moved: dict[str, list[float]] = {}
        self._denied: Counter[str] = Counter()

    def take(self, row: tuple[Any, ...]) -> None:
        """Add the numbers of one event's row to the sums."""
        time_ns, refused, sent, got, seconds = row[1:6]
        self._first = min(self._first, time_ns) if self._events else time_ns
        self._last = max(self._last, time_ns)
        self._events += 1
        self._refusals += refused
        values = row[6:]
        for counter, value in zip(self._by, values, strict=True):
            counter[value] += 1
        if seconds is not None:
            whole = self._moved.setdefault(values[2], [0, 0, 0, 0.0])
            for n, part in enumerate((1, sent, got, seconds)):
                whole[n] += part
        if values[1] == "deny":
            self._denied[values[2]] += 1

    def counts(self, top: int) -> Counts:
        """Return the sums as ``Counts``, with the ``top`` values of each kind."""
        traffic = [
            Traffic(name, int(n), int(sent), int(got), seconds)
            for name, (n, sent, got, seconds) in self._moved.items()
        ]
        traffic.sort(key=lambda one: (-one.sent - one.got, one.sandbox))
        for counter in self._by:
            counter.pop("", None)
        return Counts(
            self._events,
            self._first,
            self._last,
            by={
                name: _most(counter, top)
                for name, counter in zip(FIELDS, self._by, strict=True)
            },
            traffic=traffic[:top],
            denied=_most(self._denied, len(self._denied)),
            refusals=self._refusals,
        )


def _most(counter: Counter[str], top: int) -> list[tuple[str, int]]:
    return sorted(counter.items(), key=lambda pair: (-pair[1], pair[0]))[:top]
