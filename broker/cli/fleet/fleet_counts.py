"""Count a fleet's events, with the stored counts of whole days.

``vitrail.count_events`` keeps them (``brokerctl audit fleet upkeep``).  What it has not
seen yet, and the ends of a time that are parts of days, are counted on the spot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta

from broker.ipc.audit.counts import FIELDS, Counts, Traffic
from broker.ipc.audit.filters import Filters, choose

Rows = Callable[[str, Sequence[object]], list[tuple[object, ...]]]

_SECOND = 1_000_000_000
_DAY = 86400 * _SECOND

_COLUMNS = (
    "day, log, field, value, events, denied, refused, streams, sent, got, seconds, "
    "first_ns, last_ns"
)


def counted(
    rows: Rows, filters: Filters, top: int, machines: Callable[[], list[str]]
) -> Counts:
    """Count the events of machines and times, from the counts by day."""
    whose, values = _logs(filters, machines)
    first, last = _whole_days(filters)
    begin = None if first is None else _ns(first)
    end = None if last is None else _ns(last + timedelta(days=1))
    kept = (
        f"SELECT {_COLUMNS} FROM vitrail.count WHERE log IN (SELECT log FROM whose) "  # noqa: S608
        "AND (%s::date IS NULL OR day >= %s) AND (%s::date IS NULL OR day <= %s)"
    )
    parts = [kept]
    asked: list[object] = [*values, first, first, last, last]
    live = (
        "SELECT * FROM vitrail.counts_of(ARRAY(SELECT log FROM whose ORDER BY log), "
        "ARRAY(SELECT {} FROM whose ORDER BY log), "
        "ARRAY(SELECT {} FROM whose ORDER BY log), %s::bigint, %s::bigint)"
    )
    parts.append(live.format("counted", "sequence"))
    asked += [filters.since_ns, filters.until_ns]
    # The parts of days at the ends, of objects that are counted by whole days.
    edges: list[tuple[int | None, int | None]] = []
    if begin is not None and filters.since_ns is not None and filters.since_ns < begin:
        upto = (
            begin - 1 if filters.until_ns is None else min(begin - 1, filters.until_ns)
        )
        edges.append((filters.since_ns, upto))
    if end is not None and filters.until_ns is not None and filters.until_ns >= end:
        after = end if filters.since_ns is None else max(end, filters.since_ns)
        edges.append((after, filters.until_ns))
    for edge in dict.fromkeys(edges):
        parts.append(live.format("0", "counted"))
        asked += edge
    found = rows(
        f"WITH whose AS MATERIALIZED ({whose}), every AS ({' UNION ALL '.join(parts)}) "  # noqa: S608
        "SELECT field, value, sum(events), sum(denied), sum(refused), sum(streams), "
        "sum(sent), sum(got), sum(seconds), min(first_ns), max(last_ns) "
        "FROM every GROUP BY 1, 2",
        asked,
    )
    return _summed(found, top)


def _logs(
    filters: Filters, machines: Callable[[], list[str]]
) -> tuple[str, list[object]]:
    """Return an SQL condition of the requested logs, with its values."""
    query = (
        "SELECT head.log, head.counted, head.sequence FROM vitrail.head "
        "JOIN vitrail.log ON id = head.log WHERE true"
    )
    values: list[object] = []
    if filters.machines:
        query += " AND machine = ANY(%s)"
        values.append(choose("machine", filters.machines, machines))
    if filters.owners:
        query += " AND owner = ANY(%s)"
        values.append(list(filters.owners))
    return query, values


def _whole_days(filters: Filters) -> tuple[date | None, date | None]:
    """Return the first and the last whole day of the period; None: no end."""
    since, until = filters.since_ns, filters.until_ns
    first = None if since is None else _day(since + _DAY - 1)
    last = None if until is None else _day(until + 1) - timedelta(days=1)
    if first is not None and last is not None and last < first:
        # No whole day: all of it is one of the ends.
        last = first - timedelta(days=1)
    return first, last


def _day(time_ns: int) -> date:
    return datetime.fromtimestamp(time_ns // _SECOND, tz=UTC).date()


def _ns(day: date) -> int:
    moment = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return int(moment.timestamp()) * _SECOND


def _summed(found: list[tuple[object, ...]], top: int) -> Counts:
    """Sum rows of counts by field and value."""
    by: dict[str, list[tuple[str, int]]] = {name: [] for name in FIELDS}
    traffic: list[Traffic] = []
    denied: list[tuple[str, int]] = []
    whole = (0, 0, 0, 0)
    for field, text, *numbers, first, last in found:
        value = str(text)
        events, deny, refused, streams, sent, got, seconds = (
            float(str(number or 0)) for number in numbers
        )
        if field == "":
            whole = (int(events), int(str(first)), int(str(last)), int(refused))
            continue
        if value:
            by[str(field)].append((value, int(events)))
        if field == "sandbox":
            if streams:
                moved = Traffic(value, int(streams), int(sent), int(got), seconds)
                traffic.append(moved)
            if deny:
                denied.append((value, int(deny)))
    traffic.sort(key=lambda one: (-one.sent - one.got, one.sandbox))
    return Counts(
        *whole[:3],
        by={name: _most(pairs)[:top] for name, pairs in by.items()},
        traffic=traffic[:top],
        denied=_most(denied),
        refusals=whole[3],
    )


def _most(pairs: list[tuple[str, int]]) -> list[tuple[str, int]]:
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))


def count(rows: Rows, where: str, values: list[object], top: int) -> Counts:
    """Count what fulfils a condition, event by event."""
    return _summed(rows(_BY_EVENT.format(where=where), values), top)


# A machine's role can put any text into its rows.  A body that is not JSON, or a
# word in the place of a number, must not end the questions about all machines, as a
# cast would.  In our bodies a text cannot look like a field: its quotes are escaped.
# guard: numbers of a fleet are looked for, not cast
_NUMBER = "vitrail.number_of(body, '{}')"
_CLOSED = f"sum({_NUMBER}) FILTER (WHERE kind = 'stream.closed')"
_BY_EVENT = f"""
    SELECT one.field, one.value, count(*), count(*) FILTER (WHERE verdict = 'deny'),
        sum(coalesce({_NUMBER.format("count")}, 1)) FILTER (WHERE kind IN
            ('stream.refused', 'lease.refused', 'link.refused')),
        count(*) FILTER (WHERE kind = 'stream.closed'),
        {_CLOSED.format("bytes_from_sandbox")}, {_CLOSED.format("bytes_to_sandbox")},
        {_CLOSED.format("seconds")}, min(place_ns), max(place_ns)
    FROM vitrail.event, LATERAL (VALUES ('', ''), ('kind', kind), ('verdict', verdict),
        ('sandbox', sandbox), ('service', service), ('rule', rule),
        ('peer', vitrail.text_of(body, 'peer')),
        ('outcome', vitrail.text_of(body, 'outcome'))) AS one (field, value)
    WHERE (one.value <> '' OR one.field IN ('', 'sandbox')) AND {{where}}
    GROUP BY 1, 2"""  # noqa: S608 -- our words
