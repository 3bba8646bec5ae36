"""Checkpoints in a real journal, and what a journal that is not there does: nothing."""

from __future__ import annotations

from pathlib import Path

import trio

from broker.authority.audit.sealing import JournalTeller, Sealing
from broker.authority.audit.settings import AuditSettings
from broker.authority.audit.store import open_store
from tests.kit.audit.journald import journald
from tests.kit.audit.log import event, opened, report
from tests.kit.eventually import eventually


async def test_what_the_journal_has_finds_a_roll_back(tmp_path: Path) -> None:
    path = tmp_path / "audit.sqlite"
    async with journald() as journal:
        async with open_store(path) as store:
            settings = AuditSettings(checkpoint_events=5, checkpoint_seconds=0.2)
            sealing = Sealing(store, settings)
            sealing.listeners.append(JournalTeller(path, journal.socket).tell)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sealing.run)
                for number in range(20):
                    await store.record(event(number))

                async def there():
                    found = await journal.entries("VITRAIL_KIND=audit.checkpoint")
                    return [e for e in found if e["VITRAIL_SIZE"] == "20"]

                (entry,) = await eventually(there)
                nursery.cancel_scope.cancel()
        assert entry["SYSLOG_IDENTIFIER"] == "vitrail"
        assert entry["VITRAIL_ORIGIN"] == store.origin
    note = entry["VITRAIL_CHECKPOINT"]
    with opened(path) as db:
        assert report(db, path, note).good
        db.execute("DELETE FROM event WHERE sequence > 19")
        found = report(db, path, note)
    assert "kept elsewhere" in found.problems[0].what
    assert "covers 20" in found.problems[0].what


async def test_without_a_journal_nothing_waits(tmp_path: Path) -> None:
    path = tmp_path / "audit.sqlite"
    async with open_store(path) as store:
        sealing = Sealing(store, AuditSettings())
        sealing.listeners.append(JournalTeller(path, str(tmp_path / "none")).tell)
        await store.record(event(1))
        await sealing.publish()
        assert sealing.newest


async def test_the_key_goes_on_at_the_end_and_in_time(tmp_path: Path) -> None:
    path = tmp_path / "audit.sqlite"
    async with open_store(path) as store:
        sealing = Sealing(store, AuditSettings(evolve_seconds=1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sealing.run)
            await store.record(event(1))
            await eventually(lambda: store._seal.key.index > 0)
            nursery.cancel_scope.cancel()
        index = store._seal.key.index
        await sealing.last()
        assert store._seal.key.index == index, "nothing was recorded since"
        await store.record(event(2))
        await sealing.last()
        assert store._seal.key.index == index + 1
    with opened(path) as db:
        assert report(db, path).good
