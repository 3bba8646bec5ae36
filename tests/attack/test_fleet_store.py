"""A fleet's database that was changed, and one of whose machines was taken over."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.authority.audit.store import open_store
from broker.helpers.shipper.config import PostgresTarget
from broker.helpers.shipper.run import ship_once
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
