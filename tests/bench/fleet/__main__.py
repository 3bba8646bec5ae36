"""A fleet's database: batches of many logs, bytes an event, questions.

    python -m tests.bench.fleet [--quick] [--json FILE] [--logs N] [--events N]

A PostgreSQL of our own with fsync, 256 MB of shared buffers; events and columns are those
of a genuine log, sent for many logs by the shipper's own statement from eight threads.
``before`` is how the release before sent a batch: a temporary table, COPY, and an INSERT
that looks for conflicts, here into a table with that release's indexes.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import trio

from broker.cli.audit.query.fleet_database import open_fleet
from broker.helpers.shipper.database import connect, migrate
from broker.helpers.shipper.postgres import TAKE
from broker.ipc.audit.filters import Filters
from tests.bench.audit.__main__ import event
from tests.kit.audit.postgres import Postgres, postgres
from tests.kit.result_file import result_file

THREADS = 8
SIZES = (1, 7, 100, 1000)
_OLD = (
    "sequence, time_ns, kind, sandbox, lease, service, verdict, rule, peer, "
    "outcome, boot, body, leaf"
)
_OLD_TABLE = """
    CREATE TABLE IF NOT EXISTS public.old (LIKE vitrail.event INCLUDING GENERATED
        INCLUDING DEFAULTS, PRIMARY KEY (log, sequence));
    CREATE INDEX ON public.old (place_ns, log, sequence);
    CREATE INDEX ON public.old (kind, place_ns);
"""


async def genuine(directory: Path, count: int) -> list[tuple[Any, ...]]:
    """Rows of a log: time, kind, sandbox, service, verdict, rule, body, and others."""
    from broker.authority.audit.store import open_store
    from broker.ipc.audit.query import open_log

    async with open_store(directory / "audit.sqlite") as store:
        for first in range(0, count, 16):
            async with trio.open_nursery() as nursery:
                for number in range(first, min(count, first + 16)):
                    nursery.start_soon(store.record, event(number))
    with open_log(directory / "audit.sqlite") as log:
        rows = []
        for _, time_ns, kind, body, leaf in log.read(0, count):
            fields = json.loads(body)
            named = [
                str(fields.get(name, ""))
                for name in (
                    *("sandbox", "service", "verdict", "rule", "lease", "peer"),
                    *("outcome", "boot"),
                )
            ]
            rows.append((time_ns, kind, *named, body, leaf))
    return rows


def arguments(log: bytes, machine: str, first: int, rows: list[tuple]) -> list[object]:
    columns = [[row[n] for row in rows] for n in range(6)]
    return [
        *(log, machine, "local", first, *columns, [row[-2] for row in rows]),
        *(b"", b"x" * 32, [], [], []),
    ]


def send_new(
    connection: psycopg.Connection, number: int, first: int, rows: list
) -> None:
    with connection.transaction():
        connection.execute(
            TAKE, arguments(number.to_bytes(16, "big"), f"desk-{number}", first, rows)
        )


def send_old(
    connection: psycopg.Connection, number: int, first: int, rows: list
) -> None:
    with connection.transaction():
        connection.execute(
            "CREATE TEMPORARY TABLE arriving ON COMMIT DROP AS "
            f"SELECT {_OLD} FROM public.old LIMIT 0"
        )
        with connection.cursor().copy(f"COPY arriving ({_OLD}) FROM STDIN") as copy:
            for place, row in enumerate(rows):
                time_ns, kind, sandbox, service, verdict, rule, *rest, body, leaf = row
                lease, peer, outcome, boot = rest
                copy.write_row(
                    (first + place, time_ns, kind, sandbox, lease, service, verdict,
                     rule, peer, outcome, boot, body, leaf)
                )  # fmt: skip
        connection.execute(
            f"INSERT INTO public.old (log, {_OLD}) SELECT %s, {_OLD} FROM arriving "
            "ORDER BY sequence ON CONFLICT (log, sequence) DO NOTHING",
            [number],
        )
        connection.execute(
            "SELECT min(sequence) FROM arriving JOIN public.old there USING (sequence) "
            "WHERE there.log = %s AND there.leaf <> arriving.leaf",
            [number],
        )


def rate(address: str, send: Any, size: int, rows: list, seconds: float, logs: int, base: int) -> dict:  # fmt: skip
    """Send batches of ``size`` from all threads; each has its share of the logs."""
    done = [0] * THREADS
    stop = time.monotonic() + seconds
    begin = wal(address)

    def work(thread: int) -> None:
        with connect(address) as connection:
            place: dict[int, int] = {}
            number = thread
            while time.monotonic() < stop:
                number = (number + THREADS) % logs
                key = base + number
                first = place.get(key, 1)
                at = first % (len(rows) - size) if len(rows) > size else 0
                send(connection, key, first, rows[at : at + size])
                place[key] = first + size
                done[thread] += size

    threads = [threading.Thread(target=work, args=(n,)) for n in range(THREADS)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    events = sum(done)
    return {
        "events_per_second": round(events / took),
        "wal_bytes_per_event": round((wal(address) - begin) / max(events, 1)),
    }


def wal(address: str) -> int:
    with psycopg.connect(address) as connection:
        row = connection.execute(
            "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"
        ).fetchone()
    return int(row[0]) if row else 0


def questions(server: Postgres) -> dict[str, float]:
    asked = {
        "newest 20": lambda f: [*f.find(Filters(), last=20, newest_first=True)],
        "newest 20 of one machine": lambda f: [
            *f.find(Filters(machines=["desk-900000"]), last=20, newest_first=True)
        ],
        "stats of the fleet, counted": lambda f: f.counts(Filters(), 10),
        "one object": lambda f: [*f.find(Filters(objects=["https://x.example/"]))],
    }
    took: dict[str, float] = {}
    with open_fleet(server.address) as fleet:
        for name, ask in asked.items():
            ask(fleet)
            began = time.monotonic()
            ask(fleet)
            took[name] = round(time.monotonic() - began, 3)
    return took


async def run(words: argparse.Namespace) -> dict[str, Any]:
    seconds = 3.0 if words.quick else 12.0
    result: dict[str, Any] = {"new": {}, "before": {}}
    with TemporaryDirectory(prefix="vt-fleet-") as name:
        rows = await genuine(Path(name), 3000)
        async with postgres(fsync=True) as server:
            with connect(server.address) as connection:
                migrate(connection)
                connection.commit()
            server.run(_OLD_TABLE)
            for base, size in enumerate(SIZES):
                for kind, send in (("new", send_new), ("before", send_old)):
                    result[kind][size] = await trio.to_thread.run_sync(
                        rate, server.address, send, size, rows, seconds, words.logs,
                        (base + 1) * 1_000_000,
                    )  # fmt: skip
            loaded = 0
            number = 900_000
            began = time.monotonic()
            with connect(server.address) as connection:
                while loaded < words.events:
                    send_new(connection, number, 1, rows[:1000])
                    loaded, number = loaded + 1000, number + 1
            result["loaded"] = {
                "events": loaded,
                "seconds": round(time.monotonic() - began),
            }
            began = time.monotonic()
            server.run("SELECT vitrail.count_events()")
            result["counting_seconds"] = round(time.monotonic() - began, 1)
            ((events, size, heap),) = server.rows(
                "SELECT (SELECT count(*) FROM vitrail.event), "
                "(SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits "
                "WHERE inhparent = 'vitrail.event'::regclass), "
                "(SELECT sum(pg_relation_size(inhrelid)) FROM pg_inherits "
                "WHERE inhparent = 'vitrail.event'::regclass)"
            )
            result["bytes"] = {
                "events": events,
                "with_indexes": round(int(size) / events),
                "heap": round(int(heap) / events),
            }
            server.run("ANALYZE")
            result["questions_seconds"] = await trio.to_thread.run_sync(
                questions, server
            )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=result_file, default=None)
    parser.add_argument("--logs", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=200_000)
    words = parser.parse_args()
    result = trio.run(run, words)
    print("events a batch   events/s new   before   WAL bytes an event new   before")
    for size in SIZES:
        new, old = result["new"][size], result["before"][size]
        print(
            f"{size:>14} {new['events_per_second']:>14} {old['events_per_second']:>8} "
            f"{new['wal_bytes_per_event']:>24} {old['wal_bytes_per_event']:>8}"
        )
    print(json.dumps({k: v for k, v in result.items() if k not in {"new", "before"}}))
    if words.json:
        words.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
