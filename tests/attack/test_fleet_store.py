"""A fleet's database that was changed, and one of whose machines was taken over."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import psycopg
import pytest
import trio

from broker.authority.audit.store import open_store
from broker.cli.fleet.fleet_database import open_fleet
from broker.helpers.shipper.config import PostgresTarget
from broker.helpers.shipper.run import ship_once
from broker.ipc.audit.filters import Filters
from tests.kit.audit.postgres import Postgres, postgres
from tests.kit.audit.shipping import place, record
from tests.kit.brokerctl import called

_HASH = "sha256('\\x00'::bytea || convert_to(body || ' ', 'UTF8'))"
_EDIT = (
    f"UPDATE vitrail.event SET body = body || ' ', leaf = {_HASH} WHERE sequence = {{}}"
)


@pytest.fixture
async def server() -> AsyncIterator[Postgres]:
    async with postgres() as running:
        yield running


def environment(directory: Path) -> dict[str, str]:
    state = {"HOME": str(directory), "XDG_STATE_HOME": str(directory / "state")}
    return {**os.environ, **state, "PYTHONPATH": str(Path(__file__).parents[2])}


async def ship(directory: Path, address: str, machine: str) -> dict:
    told: dict = {}
    target = PostgresTarget("fleet", address)
    await ship_once(place(directory, machine), [target], told.__setitem__)
    return told


@asynccontextmanager
async def signed(server: Postgres, directory: Path, count: int = 60):
    """A log of ``count`` events with a checkpoint for each ten, shipped; to verify."""
    async with open_store(directory / "desk/audit.sqlite") as store:
        for first in range(1, count + 1, 10):
            await record(store, first, 10)
            await store.checkpoint()
    await ship(directory / "desk", server.address, "desk")
    words = ("audit", "verify", "--store", server.address)
    env = environment(directory)
    yield lambda *more: called(*words, *more, env=env)


@pytest.mark.parametrize(
    "script",
    [
        "DELETE FROM vitrail.event WHERE sequence = 1;" + _EDIT.format(55),
        "DELETE FROM vitrail.event WHERE sequence <= 10",
        "DELETE FROM vitrail.event WHERE sequence = 15;" + _EDIT.format(20),
        "DELETE FROM vitrail.event",
        "DELETE FROM vitrail.checkpoint;" + _EDIT.format(20),
        "INSERT INTO vitrail.gap VALUES (1, 1, 10);"
        "DELETE FROM vitrail.event WHERE sequence <= 10;" + _EDIT.format(20),
    ],
)
async def test_store_that_cannot_be_compared_is_not_said_to_be_intact(
    tmp_path: Path, server: Postgres, script: str
) -> None:
    """Without the first event no root can be computed: so anything was changed."""
    async with signed(server, tmp_path) as verify:
        assert verify().code == 0
        server.run(script)
        answer = verify()
        assert answer.code == 3, answer.out
        (report,) = verify("--json").objects
        assert report["problems"]


async def test_events_that_the_owner_removed_by_their_hashes_still_prove_the_others(
    tmp_path: Path, server: Postgres
) -> None:
    async with signed(server, tmp_path) as verify:
        server.run(
            "WITH old AS (DELETE FROM vitrail.event WHERE sequence <= 25 "
            "RETURNING log, sequence, leaf) INSERT INTO vitrail.leaf TABLE old"
        )
        answer = verify("--json")
        assert answer.code == 0, answer.out
        (report,) = answer.objects
        assert (report["removed"], report["checked"]) == (25, 35)
        assert report["checkpoints"] >= 6
        server.run("UPDATE vitrail.leaf SET leaf = leaf || '' WHERE sequence = 7")
        assert verify().code == 0
        server.run("UPDATE vitrail.leaf SET leaf = sha256('x') WHERE sequence = 7")
        assert verify().code == 3
        server.run("DELETE FROM vitrail.leaf WHERE sequence = 7")
        assert verify().code == 3


async def test_events_after_the_last_checkpoint_are_counted(
    tmp_path: Path, server: Postgres
) -> None:
    """Whoever changes the store may remove a checkpoint, too: it is said how far it is proven."""
    async with signed(server, tmp_path) as verify:
        server.run("DELETE FROM vitrail.checkpoint WHERE size > 40")
        answer = verify()
        assert answer.code == 0
        assert "41 to 60" in answer.out


async def test_log_without_a_checkpoint_is_not_intact(
    tmp_path: Path, server: Postgres
) -> None:
    async with signed(server, tmp_path) as verify:
        server.run("DELETE FROM vitrail.checkpoint WHERE kind NOT LIKE 'key%'")
        server.run("DELETE FROM vitrail.checkpoint WHERE size > 0")
        assert verify().code == 3


_ROLES = (
    "CREATE ROLE one LOGIN; CREATE ROLE two LOGIN; CREATE ROLE vitrail_reader;"
    "GRANT USAGE ON SCHEMA vitrail TO one, two, vitrail_reader;"
    "GRANT SELECT ON ALL TABLES IN SCHEMA vitrail TO one, two, vitrail_reader;"
    "GRANT INSERT ON vitrail.log, vitrail.event, vitrail.gap, vitrail.checkpoint "
    "TO one, two"
)
_EVENT = (
    "INSERT INTO vitrail.event (log, sequence, time_ns, kind, sandbox, lease, service, "
    "verdict, rule, peer, outcome, boot, body, leaf) "
    "SELECT max(id), {0}, {1}, 'decision', 'banking', '', 'vitrail.Device', 'allow', '', "
    "'', '', '', {2}, sha256('x') FROM vitrail.log WHERE owner = 'two'"
)
_NAME = (
    "INSERT INTO vitrail.log (name, machine) "
    "VALUES ('0123456789abcdef', repeat('x', 1021))"
)
_NOTE = (
    "INSERT INTO vitrail.checkpoint SELECT max(id), 1, 'x', repeat('x', 4097) "
    "FROM vitrail.log WHERE owner = 'two'"
)
_BODY = (
    """'{"kind":"decision","sandbox":"banking","verdict":"allow","reason":"forged"}'"""
)


@asynccontextmanager
async def two_machines(server: Postgres, directory: Path):
    """A fleet with the roles of docs/audit.md; a session of machine two's role."""
    for machine in ("one", "two"):
        async with open_store(directory / machine / "audit.sqlite") as store:
            await record(store, 1, 20)
    await ship(directory / "own", server.address, "owner")  # makes the tables
    async with open_store(directory / "own/audit.sqlite") as store:
        await record(store, 1, 1)
    await ship(directory / "own", server.address, "owner")
    server.run(_ROLES)
    for machine in ("one", "two"):
        assert await ship(directory / machine, server.as_role(machine), machine) == {
            "fleet": 20
        }
    with psycopg.connect(server.as_role("two"), autocommit=True) as taken:
        yield taken


def asked(server: Postgres, directory: Path, *words: str) -> list[dict]:
    answer = called(
        *("audit", "--store", server.address, "--json", *words),
        env=environment(directory),
    )
    assert answer.code in {0, 1}, answer.err
    return answer.objects


async def test_open_transaction_of_one_machine_hides_no_events(
    tmp_path: Path, server: Postgres
) -> None:
    async with two_machines(server, tmp_path) as taken:
        taken.execute("SET idle_in_transaction_session_timeout = 0")
        with open_fleet(server.address) as fleet, taken.transaction():
            taken.execute("SELECT pg_current_xact_id()")
            assert len([*fleet.find(Filters())]) == 41
            async with open_store(tmp_path / "one/audit.sqlite") as store:
                await record(store, 21, 25)
            told = await ship(tmp_path / "one", server.as_role("one"), "one")
            assert told == {"fleet": 25}
            before = fleet.horizon
            new = [*fleet.find(Filters(), cursor=before)]
            assert sorted((f.machine, f.sequence) for f in new) == [
                ("one", number) for number in range(21, 46)
            ]
            assert [*fleet.find(Filters(), cursor=fleet.horizon)] == []
            with trio.fail_after(20):
                fleet.horizon = before
                async with aclosing(fleet.follow(Filters())) as follows:
                    assert (await anext(follows)).machine == "one"


async def test_machine_does_not_speak_under_another_ones_name(
    tmp_path: Path, server: Postgres
) -> None:
    async with two_machines(server, tmp_path) as taken:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="another role"):
            taken.execute(
                "INSERT INTO vitrail.log (name, machine) VALUES (%s, 'one')",
                [bytes(16)],
            )
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            taken.execute(
                "INSERT INTO vitrail.log (name, machine, owner) VALUES (%s, 'one', 'one')",
                [bytes(16)],
            )
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            taken.execute("INSERT INTO vitrail.machine VALUES ('three', 'two')")
        assert len(asked(server, tmp_path, "--machine", "one")) == 20


async def test_times_after_the_arrival_are_marked_and_do_not_come_first(
    tmp_path: Path, server: Postgres
) -> None:
    async with two_machines(server, tmp_path) as taken:
        for number in range(50):
            taken.execute(_EVENT.format(1000 + number, 2**62, _BODY))
        async with open_store(tmp_path / "one/audit.sqlite") as store:
            await record(store, 21, 5)
        assert await ship(tmp_path / "one", server.as_role("one"), "one") == {
            "fleet": 5
        }
        newest = asked(server, tmp_path, "-n", "60", "-r")
        assert {one["machine"] for one in newest} >= {"one", "two"}
        assert newest[0]["machine"] == "one"
        forged = [one for one in newest if one.get("reason") == "forged"]
        assert len(forged) == 50
        assert all(one["time_after_arrival"] for one in forged)
        assert sum("time_after_arrival" in one for one in newest) == 50
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            taken.execute(
                _EVENT.replace("leaf)", "leaf, received_ns)")
                .replace("sha256('x')", "sha256('x'), 5")
                .format(2000, 2**62, _BODY)
            )


@pytest.mark.parametrize(
    "script",
    [
        _EVENT.format(1000, 1, "repeat('x', 65537)"),
        _EVENT.format(1000, 1, _BODY).replace("'vitrail.Device'", "repeat('x', 70000)"),
        _NAME,
        _NOTE,
    ],
)
async def test_rows_that_would_fill_a_readers_memory_are_refused(
    tmp_path: Path, server: Postgres, script: str
) -> None:
    async with two_machines(server, tmp_path) as taken:
        with pytest.raises(psycopg.errors.CheckViolation):
            taken.execute(script)
