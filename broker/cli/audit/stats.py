"""``brokerctl audit stats``: count events."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import rich_click as click

from broker.cli import render
from broker.cli.audit.event_text import EventCommand, EventOptions, asking
from broker.cli.audit.query.times import rfc3339
from broker.cli.audit.source import open_source
from broker.cli.audit.verbs import tell_unknown
from broker.cli.interrupts import reader_may_leave
from broker.core.escape import printable
from broker.ipc.audit.counts import Counts

_SECOND = 1_000_000_000
_TITLES = (
    ("kind", "KIND"),
    ("verdict", "VERDICT"),
    ("sandbox", "SANDBOX"),
    ("service", "SERVICE"),
    ("rule", "RULE"),
    ("peer", "PEER"),
    ("outcome", "OUTCOME"),
)


@click.command("stats", cls=EventCommand)
@asking
@click.option(
    "--top",
    type=click.IntRange(1, 10000),
    default=10,
    show_default=True,
    help="Number of entries in each list, the most frequent first.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(*, asked: EventOptions, top: int, as_json: bool) -> None:
    """Count events, and the bytes of streams.

    Events are counted by kind, verdict, sandbox, service, rule, peer and outcome.

    Exit code: as for 'brokerctl audit'.
    """
    if asked.grep is not None:
        raise click.UsageError("--grep cannot be used to count events")
    with reader_may_leave(), open_source(asked) as source:
        filters = source.filters(asked)
        counts = Counts(0) if filters is None else source.counts(filters, top)
        if as_json:
            render.json_line(_object(counts))
        else:
            _show(counts)
    if not counts.events:
        tell_unknown(asked)
        sys.exit(1)


def _object(counts: Counts) -> dict[str, object]:
    """Return the counts as a JSON object."""
    span = {
        "first": rfc3339(counts.first_ns),
        "last": rfc3339(counts.last_ns),
    }
    return {
        "events": counts.events,
        **(span if counts.events else {}),
        **{name: dict(pairs) for name, pairs in counts.by.items()},
        "denied": dict(counts.denied),
        "refusals": counts.refusals,
        "traffic": [
            {
                "sandbox": one.sandbox,
                "streams": one.streams,
                "bytes_from_sandbox": one.sent,
                "bytes_to_sandbox": one.got,
                "seconds": round(one.seconds, 3),
            }
            for one in counts.traffic
        ],
    }


def _show(counts: Counts) -> None:
    """Print the counts."""
    if not counts.events:
        render.note("no events match")
        return
    first, last = (_day(ns) for ns in (counts.first_ns, counts.last_ns))
    events = render.count(counts.events, "event")
    sys.stdout.write(f"{events}, {first} to {last}\n")
    if counts.refusals:
        sys.stdout.write(f"connections and requests refused: {counts.refusals}\n")
    for name, title in _TITLES:
        pairs = counts.by.get(name, [])
        if pairs:
            sys.stdout.write("\n")
            sys.stdout.flush()
            rows = [
                (printable(v, 100), str(n), _share(n, counts.events)) for v, n in pairs
            ]
            render.table((title, "EVENTS", ""), rows)
    _traffic(counts)


def _traffic(counts: Counts) -> None:
    """Print the traffic of streams by sandbox and service."""
    if not counts.traffic:
        return
    sys.stdout.write("\n")
    sys.stdout.flush()
    denied = dict(counts.denied)
    render.table(
        ["SANDBOX", "STREAMS", "OUT", "IN", "OPEN", "DENIED"],
        [
            (
                printable(one.sandbox, 60) or "-",
                str(one.streams),
                render.size(one.sent),
                render.size(one.got),
                render.seconds(one.seconds),
                str(denied.get(one.sandbox, 0)),
            )
            for one in counts.traffic
        ],
    )


def _day(time_ns: int) -> str:
    moment = datetime.fromtimestamp(time_ns // _SECOND, tz=UTC).astimezone()
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def _share(number: int, whole: int) -> str:
    return f"{100 * number / whole:.1f} %"
