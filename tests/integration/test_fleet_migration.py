"""A fleet's database with rows is updated while machines of both releases ship."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from broker.authority.audit.store import Store, open_store
from broker.helpers.shipper.config import PostgresTarget
from broker.helpers.shipper.run import ship_once
from broker.ipc.audit.schema import TransferBegin
from tests.attack.test_fleet_store import environment
from tests.kit.audit.postgres import Postgres, postgres
from tests.kit.audit.postgres_v6 import PostgresV6, make_tables
from tests.kit.audit.shipping import place, record
from tests.kit.brokerctl import Answer, called


@pytest.fixture
async def server() -> AsyncIterator[Postgres]:
    async with postgres() as running:
        make_tables(running)
        yield running


async def more(store: Store, first: int) -> None:
    await record(store, first, 9)
    await store.record(
        TransferBegin(
            sandbox="web",
            lease="l",
            stream=1,
            transfer=first,
            target="view",
            object="https://example.org/",
        )
    )
    await store.checkpoint()


async def test_rows_stay_and_the_release_before_ships_on(
    tmp_path: Path, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "desk/audit.sqlite"

    async def ship(*, old: bool) -> Any:
        told: dict[str, Any] = {}
        with monkeypatch.context() as patched:
            if old:
                patched.setattr("broker.helpers.shipper.postgres.Postgres", PostgresV6)
            await ship_once(
                place(tmp_path / "desk", "desk"),
                [PostgresTarget("fleet", server.as_role("desk"))],
                told.__setitem__,
            )
        return told["fleet"]

    async def brokerctl(*words: str, role: str = "owner") -> Answer:
        store = ("--store", server.as_role(role))
        return await trio.to_thread.run_sync(
            lambda: called("audit", *words, *store, env=environment(tmp_path))
        )

    async with open_store(path) as store:
        await more(store, 1)
        await more(store, 11)
        assert await ship(old=True) == 20
        assert server.rows("SELECT count(*) FROM vitrail.event") == [(20,)]
        # Readers of this release name the next step.
        early = await brokerctl("fleet", "machines", role="reader")
        assert early.code != 0
        assert "fleet init" in early.err
        updated = await brokerctl("fleet", "init")
        assert updated.code == 0, updated.err
        assert (await brokerctl("fleet", "init")).code == 0
        # The release before, then this one, then the one before once more: as while a
        # fleet is updated, and a machine of it is restored.
        await more(store, 21)
        assert await ship(old=True) == 10
        await more(store, 31)
        assert await ship(old=False) == 10
        await more(store, 41)
        assert await ship(old=True) == 10
        await more(store, 51)
        assert await ship(old=False) == 10
    rows = server.rows(
        "SELECT array_agg(sequence ORDER BY sequence) FROM vitrail.event"
    )
    assert rows == [([*range(1, 61)],)]
    verified = await brokerctl("verify", "--json")
    assert verified.code == 0, verified.out
    assert verified.objects[0]["checked"] == 60
    found = await brokerctl("--json", role="reader")
    assert len(found.objects) == 60
    # The rows of before stay in their table; those after it are in a day's.
    assert server.rows("SELECT count(*) FROM ONLY vitrail.event") == [(20,)]
    # The object is found in both.
    assert server.rows(
        "SELECT count(*) FROM vitrail.event WHERE object_hash IS DISTINCT FROM "
        "vitrail.object_hash(body)"
    ) == [(0,)]
    opened = await brokerctl(
        "--json", "--object", "https://example.org/", role="reader"
    )
    assert len(opened.objects) == 6
    counted = await brokerctl("fleet", "upkeep")
    assert "counted 60 events" in counted.err
    # A batch of the release before that comes again is nothing, another one a conflict.
    (tmp_path / "desk/ship/fleet.json").unlink()
    monkeypatch.setattr(PostgresV6, "position", lambda *_: None)
    assert await ship(old=True) == 60
    server.run(
        "UPDATE vitrail.event SET body = body || ' ', leaf = sha256('x') "
        "WHERE sequence = 25"
    )
    (tmp_path / "desk/ship/fleet.json").unlink()
    assert "another event 25 of this log" in str(await ship(old=True))
