"""Automatic retention: a flood of allowed requests does not fill the disk."""

from __future__ import annotations

import trio

from broker.authority.audit.retention import used_bytes
from broker.authority.audit.retention_service import Retention
from broker.authority.audit.settings import AuditSettings
from broker.authority.audit.store import open_store
from broker.core.errors import UpstreamError
from tests.kit.audit.log import event, opened, report


async def test_a_flood_of_allowed_streams_stays_within_its_size(tmp_path):
    """20,000 events, as 200 streams a second make them in half a minute."""
    path = tmp_path / "state" / "audit.sqlite"
    settings = AuditSettings(max_megabytes=8)
    largest = 0
    async with open_store(path, settings=settings) as store:
        retention = Retention(store, settings)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(retention.run)
            numbers = iter(range(20_000))

            async def caller():
                for number in numbers:
                    await store.record(event(number))

            async with trio.open_nursery() as callers:
                for _ in range(200):
                    callers.start_soon(caller)
            nursery.cancel_scope.cancel()
        await retention.prune(None, None)
        largest = path.stat().st_size
        assert used_bytes(store._db) <= 8 << 20
        recorded = store.size
    # One look in between may be late by what one second brings.
    assert largest < 40 << 20
    with opened(path) as db:
        found = report(db, path)
    assert found.good, found.problems
    # What one event takes on the disk is SQLite's business; each is accounted for.
    assert found.removed > 0
    assert found.removed + found.checked == recorded >= 20_000


async def test_a_disk_that_refuses_is_said_once(tmp_path, capsys, monkeypatch):
    async with open_store(tmp_path / "audit.sqlite") as store:
        retention = Retention(store, AuditSettings())
        asked = trio.Event()
        times = 0

        async def refuses(**_words):
            nonlocal times
            times += 1
            if times == 3:
                asked.set()
            raise UpstreamError("no space left")

        monkeypatch.setattr(store, "prune", refuses)
        monkeypatch.setattr("broker.authority.audit.retention_service._PAUSE", 0.0)
        monkeypatch.setattr(
            "broker.authority.audit.retention_service._EVERY_SECONDS", 0.0
        )
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(retention.run)
                await asked.wait()
                nursery.cancel_scope.cancel()
    said = capsys.readouterr().err
    assert said.count("cannot remove old events") == 1
