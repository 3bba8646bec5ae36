"""Events are removed as retention would, so that less can be compared."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio

from broker.authority.audit.store import Store, open_store
from broker.ipc.audit.tree import verify_consistency
from tests.kit.audit.log import event, opened, report


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "audit.sqlite"


async def record(store: Store, count: int) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(store.record, event(number))


async def test_hashes_that_were_to_stay_are_missed(path: Path) -> None:
    """Without them a checkpoint from before cannot be compared any more."""
    async with open_store(path) as store:
        await record(store, 600)
        kept = await store.checkpoint()
        await record(store, 1000)
        await store.prune(before_ns=time.time_ns(), most=None)
    with opened(path) as db:
        found = report(db, path, kept)
        assert (found.good, found.against, found.uncompared) == (True, 1, 0)
        db.execute("UPDATE pruned SET leaves = NULL WHERE block = 2")
        alone = report(db, path)
        assert "the event records that they were kept" in alone.problems[0].what


async def test_uncompared_rows_are_not_counted(path: Path) -> None:
    """The log may have lost those hashes, by its size; then nothing is proved."""
    async with open_store(path) as store:
        await record(store, 600)
        early = await store.checkpoint()
        await record(store, 2000)
        await store.prune(before_ns=None, most=1 << 19)
        late = await store.checkpoint()
    with opened(path) as db:
        assert report(db, path).good
        both = report(db, path, early, late)
        assert (both.good, both.against, both.uncompared) == (True, 1, 1)
        assert "1 of the 2 checkpoints" in both.warnings[0]
        none = report(db, path, early)
        assert (none.good, none.against, none.uncompared) == (False, 0, 1)


async def test_a_removal_for_size_leaves_what_a_witness_holds_provable(
    path: Path,
) -> None:
    """Else an honest log could not show its witness that it was not rewritten."""
    async with open_store(path) as store:
        await record(store, 600)
        note = await store.checkpoint()
        size, root = store.size, await store.root_at(store.size)
        await store.witnessed("screen", note)
        await record(store, 2000)
        for _ in range(2):
            assert await store.prune(before_ns=None, most=1 << 19)
            await record(store, 1000)
        proof = await store.consistency(size, store.size)
        new = await store.root_at(store.size)
        assert verify_consistency(size, root, store.size, new, proof)
    with opened(path) as db:
        found = report(db, path)
        assert found.good, found.problems
        assert found.removed > size
