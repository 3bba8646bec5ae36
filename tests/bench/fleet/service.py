"""The ingest service as a separate process, with genuine signed logs; and a herd.

A herd is many machines that lost the service in the same second: each is the product's
shipper in a task of this process, each with a separate log.
"""

from __future__ import annotations

import random
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from broker.authority.audit.store import open_store
from broker.cli.fleet.fleet import verify_fleet
from broker.helpers.process.spawn import spawn
from broker.helpers.shipper.config import IngestTarget
from broker.helpers.shipper.ingest import Ingest
from broker.helpers.shipper.run import Shipper, ShipperPaths, ship_once
from tests.bench.audit.__main__ import event
from tests.kit.audit.postgres import Postgres
from tests.kit.brokerctl import called, home

CONNECTIONS = 8
"""Of the service to the database."""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@asynccontextmanager
async def service(server: Postgres, port: int, output: Path) -> AsyncIterator[None]:
    """``vitrail-ingest`` on a port, without TLS."""
    with output.open("wb") as file:
        child = spawn(
            [
                *(sys.executable, "-m", "broker.programs.ingest"),
                *("--store", server.as_role("ingest"), "--port", str(port)),
                *("--threads", str(CONNECTIONS)),
            ],
            stdout=file.fileno(),
            stderr=file.fileno(),
        )
        try:
            while "listening" not in output.read_text():
                await trio.sleep(0.02)
            yield
        finally:
            child.kill_now()


def initialise(server: Postgres) -> None:
    with home() as env:
        done = called("audit", "fleet", "init", "--store", server.address, env=env)
    assert done.code == 0, done.err
    server.run(
        "CREATE ROLE ingest LOGIN IN ROLE vitrail_ingest;"
        "CREATE ROLE reader LOGIN IN ROLE vitrail_reader"
    )


async def fill(directory: Path, count: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    async with open_store(directory / "audit.sqlite") as store:
        for first in range(0, count, 64):
            async with trio.open_nursery() as nursery:
                for number in range(first, min(count, first + 64)):
                    nursery.start_soon(store.record, event(number))
        await store.checkpoint()


def enrol(server: Postgres, name: str, count: int) -> None:
    """Enrol NAME-0 and so on, with the token "t"."""
    server.run(
        "INSERT INTO vitrail.enrolled (machine, secret) SELECT "
        f"'{name}-' || n, sha256('t') FROM generate_series(0, {count - 1}) AS n"
    )


async def genuine_logs(server: Postgres, directory: Path, count: int, logs: int) -> Any:
    """Events a second of signed logs through the service; then their verification."""
    port = free_port()
    for number in range(logs):
        await fill(directory / str(number), count)
    told: dict[str, Any] = {}

    async def ship(number: int) -> None:
        machine = f"genuine-{number}"
        target = IngestTarget("fleet", f"http://127.0.0.1:{port}", token="t")
        await ship_once(
            ShipperPaths(
                directory / str(number) / "audit.sqlite",
                directory / str(number),
                machine,
            ),
            [target],
            lambda _, answer: told.__setitem__(machine, answer),
        )

    enrol(server, "genuine", logs)
    async with service(server, port, directory / "ingest.out"):
        began = time.monotonic()
        async with trio.open_nursery() as nursery:
            for number in range(logs):
                nursery.start_soon(ship, number)
        took = time.monotonic() - began
    assert sum(told.values()) == count * logs, told
    verified: dict[str, float] = {}
    for jobs in (1, 2):
        began = time.monotonic()
        found = await trio.to_thread.run_sync(
            partial(verify_fleet, server.address, ["genuine-*"], [], None, jobs)
        )
        assert all(report.good for _, report in found)
        verified[f"{jobs} jobs"] = round(count * logs / (time.monotonic() - began))
    return {
        "events_per_second": round(count * logs / took),
        "verified_per_second": verified,
    }


@contextmanager
def pauses(*, jitter: bool) -> Iterator[None]:
    """Without jitter: the whole pause each time, as the release before waited."""
    before = random.uniform
    if not jitter:
        random.uniform = lambda _, most: most  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        random.uniform = before  # type: ignore[method-assign]


async def herd(server: Postgres, directory: Path, machines: int, outage: float, *, jitter: bool) -> Any:  # fmt: skip
    """All have events to ship, the service is away for ``outage`` s, and comes back."""
    for number in range(machines):
        await fill(directory / str(number), 20)
    port, name = free_port(), "herd"
    limiter = trio.to_thread.current_default_thread_limiter()
    limiter.total_tokens = machines
    ask, arrived, asked = Ingest._ask, [], [0]

    def counted(self: Ingest, *words: Any) -> Any:
        asked[0] += 1
        found = ask(self, *words)
        if words[0] == "POST":
            arrived.append(time.monotonic())
        return found

    Ingest._ask = counted  # type: ignore[method-assign]
    stop = trio.Event()
    try:
        with pauses(jitter=jitter):
            async with trio.open_nursery() as nursery:
                for number in range(machines):
                    machine = f"{name}-{number}"
                    target = IngestTarget(
                        "fleet", f"http://127.0.0.1:{port}", token="t"
                    )
                    where = directory / str(number)
                    (where / name).mkdir(exist_ok=True)
                    shipper = Shipper(
                        ShipperPaths(where / "audit.sqlite", where / name, machine),
                        *("fleet", target.where(), partial(Ingest, target, machine)),
                    )
                    nursery.start_soon(shipper.follow, stop)
                await trio.sleep(outage)
                before = asked[0]
                async with service(server, port, directory / "ingest.out"):
                    began = time.monotonic()
                    while len(arrived) < machines and time.monotonic() < began + 300:
                        await trio.sleep(0.1)
                    stop.set()
                    nursery.cancel_scope.deadline = trio.current_time() + 5
    finally:
        Ingest._ask = ask  # type: ignore[method-assign]
    seconds = sorted(moment - began for moment in arrived)
    by_second: dict[int, int] = {}
    for moment in seconds:
        by_second[int(moment)] = by_second.get(int(moment), 0) + 1
    return {
        "machines": machines,
        "outage_seconds": outage,
        "delivered": len(seconds),
        "attempts_during_outage": before,
        "attempts_after_it": asked[0] - before,
        "seconds_p50": round(seconds[len(seconds) // 2], 1) if seconds else None,
        "seconds_last": round(seconds[-1], 1) if seconds else None,
        "most_in_one_second": max(by_second.values(), default=0),
    }
