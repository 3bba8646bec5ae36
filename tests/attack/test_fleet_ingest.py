"""One role for all machines: the ingest service believes a log's signatures alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from broker.authority.audit.store import open_store
from broker.core.errors import IntegrityError, SetupError, UpstreamError
from broker.fleet.server import IngestLimits, IngestServer
from broker.fleet.store import IngestStore
from broker.helpers.shipper.config import IngestTarget, PostgresTarget
from broker.helpers.shipper.ingest import Ingest
from broker.helpers.shipper.run import ship_once
from broker.helpers.shipper.terms import Batch
from tests.attack.test_fleet_store import environment
from tests.kit.audit.postgres import Postgres, postgres
from tests.kit.audit.shipping import place, record
from tests.kit.brokerctl import called


class Fleet:
    """A database with its ingest service."""

    def __init__(self, server: Postgres, port: int, directory: Path) -> None:
        self.server, self.port, self.directory = server, port, directory

    async def brokerctl(self, *words: str) -> Any:
        words = ("audit", *words, "--store", self.server.address)
        env = environment(self.directory)
        return await trio.to_thread.run_sync(lambda: called(*words, env=env))

    async def token(self, machine: str) -> str:
        answer = await self.brokerctl("fleet", "enrol", machine, "--token")
        assert answer.code == 0, answer.err
        return answer.out.strip()

    def target(self, token: str) -> IngestTarget:
        return IngestTarget("fleet", f"http://127.0.0.1:{self.port}", token=token)

    async def ship(self, log: str, machine: str, token: str) -> Any:
        told: dict = {}
        await ship_once(
            place(self.directory / log, machine), [self.target(token)], told.__setitem__
        )
        return told["fleet"]


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with postgres() as server, trio.open_nursery() as nursery:
        made = Fleet(server, 0, tmp_path)
        assert (await made.brokerctl("fleet", "init")).code == 0
        server.run("CREATE ROLE ingest LOGIN IN ROLE vitrail_ingest")
        store = IngestStore(server.as_role("ingest"))
        service = IngestServer(store, IngestLimits())
        made.port = await nursery.start(service.serve, "127.0.0.1", 0, None)
        yield made
        nursery.cancel_scope.cancel()
        store.close()


@asynccontextmanager
async def log(directory: Path, count: int = 30) -> AsyncIterator[None]:
    async with open_store(directory / "audit.sqlite") as store:
        for first in range(1, count + 1, 10):
            await record(store, first, 10)
            await store.checkpoint()
    yield


async def test_machines_of_one_role_ship_what_they_have_signed(fleet: Fleet) -> None:
    for machine in ("one", "two"):
        async with log(fleet.directory / machine, 2500 if machine == "one" else 30):
            token = await fleet.token(machine)
            told = await fleet.ship(machine, machine, token)
            assert told in {30, 2500}
    # More of the same log, after a key has changed.
    async with open_store(fleet.directory / "one/audit.sqlite") as store:
        await store.evolve()
        await record(store, 5001, 30)
    told = await fleet.ship("one", "one", await fleet.token("one"))
    assert told == 30
    answer = await fleet.brokerctl("verify", "--json")
    assert answer.code == 0, answer.out
    assert [one["role"] for one in answer.objects] == ["ingest", "ingest"]
    machines = (await fleet.brokerctl("fleet", "machines", "--json")).objects
    assert [(m["machine"], m["events"] > 0) for m in machines] == [
        ("one", True),
        ("two", True),
    ]


async def test_machine_does_not_ship_under_another_ones_name(fleet: Fleet) -> None:
    async with log(fleet.directory / "one"), log(fleet.directory / "two"):
        one, two = await fleet.token("one"), await fleet.token("two")
        assert await fleet.ship("one", "one", one) == 30
        for token in (two, "", "x"):
            (fleet.directory / "two/ship/fleet.json").unlink(missing_ok=True)
            told = await fleet.ship("two", "one", token)
            assert isinstance(told, SetupError)
            assert "not enrolled" in str(told)
        # It has copied the other one's log.
        told = await fleet.ship("one", "two", two)
        assert isinstance(told, SetupError)
        assert "another machine's" in str(told)
        # A role of the database does not begin a log under the name, either.
        fleet.server.run(
            "CREATE ROLE desk LOGIN IN ROLE vitrail_machine; GRANT CREATE ON SCHEMA "
            "vitrail TO desk"
        )
        told = {}
        await ship_once(
            place(fleet.directory / "two", "one"),
            [PostgresTarget("pg", fleet.server.as_role("desk"))],
            told.__setitem__,
        )
        assert "another role ships under the name one" in str(told["pg"])
        assert (await fleet.brokerctl("fleet", "enrol", "one", "--revoke")).code == 0
        async with open_store(fleet.directory / "one/audit.sqlite") as store:
            await record(store, 101, 5)
        assert isinstance(await fleet.ship("one", "one", one), SetupError)


class Changing(Ingest):
    """A taken-over machine: it changes what it sends."""

    change: Any = None

    def send(self, batch: Batch) -> None:
        super().send(type(self).change(batch))


def edited(batch: Batch) -> Batch:
    items = [replace(i, body=i.body.replace('"', '"', 1) + " ") for i in batch.items]
    return replace(batch, items=items)


CHANGES: dict[str, Any] = {
    "edited": edited,
    "removed middle": lambda b: replace(b, items=[*b.items[:5], *b.items[6:]]),
    "removed prefix": lambda b: replace(b, items=b.items[4:]),
    "added": lambda b: replace(b, items=[*b.items, b.items[-1]]),
    "no proof": lambda b: replace(b, proof=None),
    "a proof without hashes": lambda b: replace(
        b, items=b.items[:7], proof=replace(b.proof, hashes=[])
    ),
    "forged note": lambda b: replace(
        b, proof=replace(b.proof, note=b.proof.note.replace("\n3", "\n4", 1))
    ),
    "no keys": lambda b: replace(b, notes=[], proof=replace(b.proof, keys=[])),
    "another log's name": lambda b: replace(b, log=bytes(16)),
    "20 MB": lambda b: replace(
        b, items=[replace(b.items[0], body="{" + " " * (20 << 20) + "}")]
    ),
}


@contextmanager
def changing(monkeypatch: pytest.MonkeyPatch, change: Any) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(Changing, "change", staticmethod(change))
        patched.setattr("broker.helpers.shipper.ingest.Ingest", Changing)
        yield


async def test_what_the_log_has_not_signed_is_refused(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with log(fleet.directory / "one"):
        token = await fleet.token("one")
        for name, change in CHANGES.items():
            with changing(monkeypatch, change):
                told = await fleet.ship("one", "one", token)
            assert isinstance(told, (SetupError, UpstreamError, IntegrityError)), name
            rows = fleet.server.rows("SELECT count(*) FROM vitrail.event")
            assert rows == [(0,)], name
        assert await fleet.ship("one", "one", token) == 30
        # A batch that comes again is nothing, one that differs from it is a conflict.
        (fleet.directory / "one/ship/fleet.json").unlink()
        with monkeypatch.context() as patched:
            patched.setattr(Ingest, "position", lambda *_: None)
            assert await fleet.ship("one", "one", token) == 30
            (fleet.directory / "one/ship/fleet.json").unlink()
            with changing(monkeypatch, edited):
                told = await fleet.ship("one", "one", token)
        assert isinstance(told, IntegrityError)
        assert fleet.server.rows("SELECT count(*) FROM vitrail.event") == [(30,)]


async def test_machine_does_not_begin_logs_without_end(fleet: Fleet) -> None:
    token = await fleet.token("one")
    for number in range(17):
        async with log(fleet.directory / str(number), 10):
            told = await fleet.ship(str(number), "one", token)
            assert (told == 10) == (number < 16), told
    assert "too many logs" in str(told)


async def test_service_survives_what_is_not_http(fleet: Fleet) -> None:
    for data in (
        b"\x16\x03\x01" * 100,
        b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"
        + b"x" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 100_000,
        b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n{}}",
    ):
        stream = await trio.open_tcp_stream("127.0.0.1", fleet.port)
        async with stream:
            with trio.move_on_after(5):
                try:
                    await stream.send_all(data)
                    await stream.send_eof()
                    await stream.receive_some()
                except trio.BrokenResourceError:
                    pass
    async with log(fleet.directory / "one"):
        assert await fleet.ship("one", "one", await fleet.token("one")) == 30
