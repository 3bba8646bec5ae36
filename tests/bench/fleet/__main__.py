"""A fleet's database: batches of many logs, bytes an event, questions, a herd.

    python -m tests.bench.fleet [--quick] [--json FILE] [--logs N] [--events N] [--herd N]

A PostgreSQL of our own with fsync, 256 MB of shared buffers; events and columns are those
of a genuine log, sent for many logs by the shipper's own statement from eight threads, by
one role and by a role for each log (which connects for each batch, as a shipper does).
``before`` is how the release before sent a batch: a temporary table, COPY, and an INSERT
that looks for conflicts, here into a table with that release's indexes.

Signed logs go through the ingest service as a process; a herd of shippers waits for it.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import trio

from broker.cli.fleet.fleet_database import open_fleet
from broker.cli.fleet.fleet_verbs import pack_day
from broker.helpers.shipper.database import connect
from broker.helpers.shipper.postgres import TAKE
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.schema import Event, TransferBegin
from tests.bench.audit.__main__ import event
from tests.bench.fleet.service import enrol, genuine_logs, herd, initialise
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


def _mixed(number: int) -> Event:
    """One in sixteen opens an address elsewhere."""
    if number % 16 != 15:
        return event(number)
    return TransferBegin(
        sandbox=f"sandbox-{number % 40}",
        service="vitrail.OpenURL",
        stream=number,
        transfer=number,
        target="@dispvm:view",
        object=f"https://page.example/{number}",
        rule="/etc/vitrail/policy.d/30-site.policy:14:1",
    )


async def genuine(directory: Path, count: int) -> list[tuple[Any, ...]]:
    """Rows of a log: time, kind, sandbox, service, verdict, rule, body, and others."""
    from broker.authority.audit.store import open_store
    from broker.ipc.audit.query import open_log

    async with open_store(directory / "audit.sqlite") as store:
        for first in range(0, count, 16):
            async with trio.open_nursery() as nursery:
                for number in range(first, min(count, first + 16)):
                    nursery.start_soon(store.record, _mixed(number))
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


def rate(server: Postgres, send: Any, size: int, rows: list, seconds: float, logs: int, base: int, *, roles: bool = False) -> dict:  # fmt: skip
    """Send batches of ``size`` from all threads; each has its share of the logs."""
    address = server.address
    done = [0] * THREADS
    stop = time.monotonic() + seconds
    begin = wal(address)

    def work(thread: int) -> None:
        held = None if roles else connect(address)
        place: dict[int, int] = {}
        number = thread
        while time.monotonic() < stop:
            number = (number + THREADS) % logs
            key = base + number
            first = place.get(key, 1)
            at = first % (len(rows) - size) if len(rows) > size else 0
            connection = held or connect(server.as_role(f"desk{number}"))
            send(connection, key, first, rows[at : at + size])
            if held is None:
                connection.close()
            place[key] = first + size
            done[thread] += size
        if held is not None:
            held.close()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(THREADS)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    events = sum(done)
    return {
        "load": round(os.getloadavg()[0], 1),
        "events_per_second": round(events / took),
        "wal_bytes_per_event": round((wal(address) - begin) / max(events, 1)),
    }


def wal(address: str) -> int:
    with psycopg.connect(address) as connection:
        row = connection.execute(
            "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"
        ).fetchone()
    return int(row[0]) if row else 0


def spread(rows: list, number: int, now_ns: int) -> list:
    """The same events over a day, with addresses of this log alone."""
    step = 86_400_000_000_000 // len(rows)
    return [
        (
            now_ns - 86_400_000_000_000 + place * step + number % 86_400 * 1000,
            *row[1:-2],
            row[-2].replace("//page", f"//page-{number}"),
            row[-1],
        )
        for place, row in enumerate(rows)
    ]


def load(server: Postgres, rows: list, events: int) -> None:
    now_ns = time.time_ns()
    numbers = iter(range(900_000, 900_000 + events // len(rows)))
    lock = threading.Lock()

    def work() -> None:
        with connect(server.address) as connection:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                send_new(connection, number, 1, spread(rows, number, now_ns))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def questions(server: Postgres, rules: list[str]) -> dict[str, float]:
    hour, now = 3600 * 10**9, time.time_ns()
    one = ("desk-900001",)
    deny = ("deny",)
    asked: dict[str, Any] = {
        "newest 20 of the fleet": ({}, 20),
        "one machine, all of it": ({"machines": one}, None),
        "one machine, newest 20 denials": ({"machines": one, "verdicts": deny}, 20),
        "denials of the fleet, five minutes": (
            {"verdicts": deny, "since_ns": now - 2 * hour, "until_ns": now - 23 * hour // 12}, None,
        ),
        "denied by one rule, newest 100": ({"verdicts": deny, "rules": rules[:1]}, 100),
        "who opened this address, an hour": (
            {"objects": ("https://page-900005.example/15",), "since_ns": now - 4 * hour, "until_ns": now - 3 * hour}, None,
        ),
        "who opened this address, a day": ({"objects": ("https://page-900005.example/15",)}, None),
        "addresses by a pattern, an hour": (
            {"objects": ("https://page-900005*",), "since_ns": now - 4 * hour, "until_ns": now - 3 * hour}, None,
        ),
        "one sandbox's name, newest 100": ({"sandboxes": ("sandbox-7",)}, 100),
    }  # fmt: skip
    took: dict[str, float] = {}

    def timed(name: str, ask: Any) -> None:
        ask()
        began = time.monotonic()
        ask()
        took[name] = round(time.monotonic() - began, 3)

    with open_fleet(server.as_role("reader")) as fleet:
        for name, (fields, last) in asked.items():
            timed(
                name,
                lambda fields=fields, last=last: [
                    *fleet.find(Filters(**fields), last=last, newest_first=bool(last))
                ],
            )
        timed("stats of one machine", lambda: fleet.counts(Filters(machines=one), 10))
        timed("stats of the fleet", lambda: fleet.counts(Filters(), 10))
        timed(
            "machines, when they were last heard of",
            lambda: fleet.rows("SELECT log, heard, policy FROM vitrail.head", []),
        )
    return took


async def run(words: argparse.Namespace) -> dict[str, Any]:
    seconds = 3.0 if words.quick else 12.0
    result: dict[str, Any] = {"new": {}, "before": {}, "roles": {}}
    with TemporaryDirectory(prefix="vt-fleet-", dir=words.directory) as name:
        rows = await genuine(Path(name), 3000)
        async with postgres(fsync=True) as server:
            initialise(server)
            server.run(_OLD_TABLE)
            server.run(
                f"DO $$ BEGIN FOR n IN 0..{words.logs} LOOP EXECUTE format('CREATE ROLE "
                "%I LOGIN IN ROLE vitrail_machine', 'desk' || n); END LOOP; END $$"
            )
            for base, size in enumerate(SIZES if "rates" in words.parts else ()):
                for kind, send in (("new", send_new), ("before", send_old), ("roles", send_new)):  # fmt: skip
                    result[kind][size] = await trio.to_thread.run_sync(
                        partial(rate, roles=kind == "roles"),
                        server, send, size, rows, seconds, words.logs,
                        (base + 1) * 1_000_000 + 100_000 * (kind == "roles"),
                    )  # fmt: skip
                    print(kind, size, result[kind][size], flush=True)
            server.run("DROP TABLE public.old")
            result["logs_known"] = server.rows("SELECT count(*) FROM vitrail.log")[0][0]
            if "signed" in words.parts:
                result["signed"] = await genuine_logs(
                    server, Path(name) / "signed", 2000 if words.quick else 10_000, 8
                )
                print("signed", result["signed"], flush=True)
            if words.herd:
                enrol(server, "herd", words.herd)
                for jitter in (True, False):
                    found = await herd(
                        *(server, Path(name) / "herd", words.herd, words.outage),
                        jitter=jitter,
                    )
                    result["herd" if jitter else "herd_before"] = found
                    print("herd", jitter, found, flush=True)
            before = server.rows(_SIZE)[0]
            began = time.monotonic()
            await trio.to_thread.run_sync(load, server, rows[:1000], words.events)
            result["loaded"] = {
                "events": words.events,
                "seconds": round(time.monotonic() - began),
            }
            print("loaded", result["loaded"], flush=True)
            began = time.monotonic()
            server.run("SELECT vitrail.count_events()")
            result["counting_seconds"] = round(time.monotonic() - began, 1)
            events, size, heap = server.rows(_SIZE)[0]
            result["bytes"] = {
                "events": events,
                "with_indexes": round(int(size) / events),
                "heap": round(int(heap) / events),
                "loaded_alone": round(
                    (int(size) - int(before[1] or 0)) / max(events - before[0], 1)
                ),
            }
            print(result["bytes"], flush=True)
            began = time.monotonic()
            tomorrow = datetime.now(UTC).date() + timedelta(days=1)
            await trio.to_thread.run_sync(pack_day, server.address, tomorrow)
            _, size, _ = server.rows(_SIZE)[0]
            result["bytes"]["after_the_day"] = round(int(size) / events)
            result["packing_seconds"] = round(time.monotonic() - began, 1)
            server.run("VACUUM ANALYZE")
            result["questions_seconds"] = await trio.to_thread.run_sync(
                questions, server, [row[5] for row in rows if row[4] == "deny"]
            )
    return result


_SIZE = """
    SELECT (SELECT count(*) FROM vitrail.event),
        (SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits
            WHERE inhparent = 'vitrail.event'::regclass),
        (SELECT sum(pg_relation_size(inhrelid)) FROM pg_inherits
            WHERE inhparent = 'vitrail.event'::regclass)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=result_file, default=None)
    parser.add_argument("--logs", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--herd", type=int, default=0, help="shippers after an outage")
    parser.add_argument("--outage", type=float, default=40.0, help="seconds")
    parser.add_argument("--parts", default="rates,signed", help="of these two")
    parser.add_argument("--directory", default=None, help="for the machines' logs")
    words = parser.parse_args()
    result = trio.run(run, words)
    print(
        "events a batch   events/s: one role, a role each, before   WAL bytes an event"
    )
    for size in result["new"]:
        columns = [result[kind][size] for kind in ("new", "roles", "before")]
        rates = " ".join(f"{one['events_per_second']:>10}" for one in columns)
        logs = " ".join(f"{one['wal_bytes_per_event']:>8}" for one in columns)
        print(f"{size:>14} {rates}   {logs}")
    shown = {k: v for k, v in result.items() if k not in {"new", "roles", "before"}}
    print(json.dumps(shown, indent=1))
    if words.json:
        words.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
