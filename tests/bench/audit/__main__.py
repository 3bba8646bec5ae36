"""The audit log beside plain SQLite inserts and ``logger`` to journald.

    python -m tests.bench.audit [--quick] [--json FILE] [--no-large]

In one run, interleaved, five repetitions; the tables have their median, and
their range in brackets.  ``vitrail`` is the broker's own store, with all that
it does: columns, indices, Merkle tree, a signed head in every commit.
``sqlite`` is a table of number and body, one INSERT and one commit for each
event, durable in the same way (WAL, synchronous=FULL).  ``logger`` is util-linux'
program, one process for all events, to a systemd-journald of our own: it
returns when journald has the datagram, and nothing is durable then.

Then the questions to a log of a million events.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from broker.authority.audit.proof.keys import KeyFile
from broker.authority.audit.store import open_store
from broker.ipc.audit import schema
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from tests.kit.audit.journald import journald
from tests.kit.result_file import result_file

CONCURRENT = (1, 16, 64)
REPETITIONS = 5
POLICY = "9f" * 32
LEASES = [f"{number:016x}" for number in range(40)]

Record = Callable[[schema.Event], Awaitable[object]]


def event(number: int) -> schema.Event:
    """What three events of a stream are, on the average."""
    which = number % 40
    subject = {
        "sandbox": f"sandbox-{which}",
        "lease": LEASES[which],
        "generation": 3,
        "service": "vitrail.Display" if number % 3 else "vitrail.Audio",
        "stream": number // 3,
        "peer": f"hybrid:/run/user/1000/vitrail/sandboxes/sandbox-{which}/vm.vsock",
    }
    match number % 3:
        case 0:
            verdict = (
                schema.EventVerdict.DENY
                if number % 300 == 0
                else schema.EventVerdict.ALLOW
            )
            return schema.Decision(
                **subject,
                verdict=verdict,
                rule=f"/home/ann/.config/vitrail/sandboxes.d/sandbox-{which}.toml:4:1",
                policy=POLICY,
                reason="the sandbox's record allows it",
            )
        case 1:
            return schema.StreamOpened(**subject, mode="splice")
        case _:
            return schema.StreamClosed(
                **subject, outcome="closed", reason="end", seconds=1.25,
                bytes_from_sandbox=number * 100, bytes_to_sandbox=number,
            )  # fmt: skip


async def load(record: Record, events: int, callers: int) -> tuple[float, list[float]]:
    """So many callers, each with one event at a time; seconds, and each one's wait."""
    waits: list[float] = []
    numbers = iter(range(events))

    async def caller() -> None:
        for number in numbers:
            begin = time.perf_counter()
            await record(event(number))
            waits.append(time.perf_counter() - begin)

    begin = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(callers):
            nursery.start_soon(caller)
    return time.perf_counter() - begin, waits


class Plain:
    """One INSERT and one commit for each event."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("CREATE TABLE event (sequence INTEGER PRIMARY KEY, body TEXT)")
        self._turn = trio.Lock()

    async def record(self, made: schema.Event) -> None:
        body = schema.encode(made).decode()
        async with self._turn:
            await trio.to_thread.run_sync(self._insert, body)

    def _insert(self, body: str) -> None:
        self._db.execute("INSERT INTO event (body) VALUES (?)", (body,))

    def close(self) -> None:
        self._db.close()


async def _vitrail(directory: Path, events: int, callers: int):
    path = directory / "vitrail" / "audit.sqlite"
    async with open_store(path) as store:
        found = await load(store.record, events, callers)
    return *found, path.stat().st_size / events


async def _plain(directory: Path, events: int, callers: int):
    path = directory / "plain.sqlite"
    plain = Plain(path)
    found = await load(plain.record, events, callers)
    plain.close()
    return *found, path.stat().st_size / events


async def _logger(directory: Path, journal, events: int):
    """Events a second of one ``logger``, and the journal's growth."""
    lines = directory / "lines"
    with lines.open("w") as file:
        for number in range(events):
            file.write(schema.encode(event(number)).decode() + "\n")
    socket = Path(journal.socket).with_name("dev-log")
    folder = Path(journal.socket).parent.parent / "log"
    before = sum(f.stat().st_blocks for f in folder.rglob("*.journal"))
    begin = time.perf_counter()
    with lines.open("rb") as file:
        argv = ["logger", "-u", socket, "-t", "vitrail", "--size", "8KiB"]
        subprocess.run(argv, stdin=file, check=True)
    seconds = time.perf_counter() - begin
    after = sum(f.stat().st_blocks for f in folder.rglob("*.journal"))
    return seconds, (after - before) * 512 / events


async def compare(directory: Path, quick: bool) -> dict:
    """Events a second, waits, and sizes, of all three."""
    rows: dict[str, dict[str, list[float]]] = {}

    def put(row: str, column: str, value: float) -> None:
        rows.setdefault(row, {}).setdefault(column, []).append(value)

    many = 5_000 if quick else 40_000
    few = 600 if quick else 3_000
    async with AsyncExitStack() as stack:
        journal = await stack.enter_async_context(journald())
        for turn in range(REPETITIONS):
            for name, run in (("vitrail", _vitrail), ("sqlite", _plain)):
                for callers in CONCURRENT:
                    with TemporaryDirectory(dir=directory) as place:
                        count = few // 5 if callers == 1 else few
                        _, waits, _ = await run(Path(place), count, callers)
                    waits.sort()
                    row = f"{name}, {callers} at once"
                    put(row, "p50 ms", statistics.median(waits) * 1e3)
                    put(row, "p99 ms", waits[int(len(waits) * 0.99)] * 1e3)
                with TemporaryDirectory(dir=directory) as place:
                    count = many if name == "vitrail" else few
                    seconds, _, size = await run(Path(place), count, 256)
                put(f"{name}, sustained", "events/s", count / seconds)
                put(f"{name}, sustained", "bytes/event", size)
            seconds, size = await _logger(directory, journal, few)
            put("logger, sustained", "events/s", few / seconds)
            put("logger, sustained", "bytes/event", size)
            print(f"repetition {turn + 1} of {REPETITIONS}", file=sys.stderr)
    return rows


async def fill(path: Path, events: int) -> float:
    """Make the large log; returns seconds."""
    async with open_store(path) as store:
        seconds, _ = await load(store.record, events, 900)
        await store.checkpoint()
    return seconds


def questions(path: Path, events: int) -> dict[str, list[float]]:
    """Seconds of each question, asked as 'brokerctl audit' asks."""
    asked = {
        "newest 100 of one sandbox": Filters(sandboxes=["sandbox-7"]),
        "newest 100 denials": Filters(verdicts=["deny"]),
        "one sandbox, one service, denied": Filters(
            sandboxes=["sandbox-0"], services=["Audio"], verdicts=["deny"]
        ),
        "one rule's newest 100": Filters(rules=["sandbox-9.toml:4"]),
    }
    rows: dict[str, list[float]] = {}
    with open_log(path) as log:
        for _ in range(REPETITIONS):
            for name, filters in asked.items():
                begin = time.perf_counter()
                found = [*log.find(filters, last=100)]
                rows.setdefault(name, []).append(time.perf_counter() - begin)
                assert found
    for name, words in {
        "brokerctl audit verify": ["verify", "--json", "--log", str(path)],
        "brokerctl audit stats": ["stats", "--json", "--store", str(path)],
    }.items():
        argv = [sys.executable, "-m", "broker.cli.app", "audit", *words]
        for _ in range(2):
            begin = time.perf_counter()
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            seconds = time.perf_counter() - begin
            if done.returncode == 2:
                print(f"{name}: not there yet: {done.stderr[-200:]}", file=sys.stderr)
                break
            assert done.returncode == 0, done
            if words[0] == "verify":
                report = json.loads(done.stdout)
                assert report["good"]
                assert report["size"] == events
            rows.setdefault(name, []).append(seconds)
    return rows


def _cell(values: list[float]) -> str:
    middle = statistics.median(values)
    digits = 0 if middle >= 100 else 2 if middle >= 1 else 3
    low, high = min(values), max(values)
    return f"{middle:.{digits}f} [{low:.{digits}f}..{high:.{digits}f}]"


def show(rows: dict[str, dict[str, list[float]]]) -> None:
    """Print the first table."""
    for row, columns in sorted(rows.items()):
        cells = "  ".join(f"{name} {_cell(v)}" for name, v in columns.items())
        print(f"{row:<24} {cells}")


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-large", action="store_true")
    parser.add_argument("--json", type=result_file)
    words = parser.parse_args()
    large = 100_000 if words.quick else 1_000_000
    result: dict[str, object] = {"cpus": os.cpu_count()}
    with TemporaryDirectory(prefix="vt-bench-") as name:
        directory = Path(name)
        rows = trio.run(compare, directory, words.quick)
        show(rows)
        result["compare"] = rows
        if not words.no_large:
            path = directory / "large" / "audit.sqlite"
            seconds = trio.run(fill, path, large)
            size = path.stat().st_size
            assert KeyFile(path).load() is not None
            print(
                f"\n{large} events, {size / large:.0f} bytes each, "
                f"recorded at {large / seconds:.0f}/s"
            )
            asked = questions(path, large)
            for row, values in asked.items():
                print(f"{row:<34} {_cell(values)} s")
            result |= {"large": large, "fill_s": seconds, "size": size, "ask": asked}
    ratio = statistics.median(
        rows["vitrail, sustained"]["events/s"]
    ) / statistics.median(rows["sqlite, sustained"]["events/s"])
    print(f"\nsustained, vitrail to sqlite: {ratio:.1f}")
    if words.json:
        words.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
