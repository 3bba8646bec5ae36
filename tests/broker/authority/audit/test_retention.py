"""Retention removes old or surplus events; the rest, and every proof, stays good."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
import trio

from broker.authority.audit.proof.note import parse_note
from broker.authority.audit.retention import used_bytes
from broker.authority.audit.store import open_store
from broker.cli.audit.proof.inclusion import prove
from broker.core.errors import RefusedError, SetupError
from broker.ipc.audit import schema
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.nodes import Nodes
from broker.ipc.audit.query import open_log
from broker.ipc.audit.tree import BLOCK
from shims import vitrail_audit_check as checker
from tests.kit.audit.log import event, opened, report


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.sqlite"


async def record(store, count: int) -> None:
    for _ in range(0, count, 256):
        async with trio.open_nursery() as nursery:
            for number in range(256):
                nursery.start_soon(store.record, event(number))


def good(path: Path, *kept: str):
    with opened(path) as db:
        found = report(db, path, *kept)
    assert found.good, found.problems
    return found


async def test_old_bodies_go_and_proofs_stay(path: Path) -> None:
    async with open_store(path) as store:
        await record(store, 1024)
        early = await store.checkpoint()
        with opened(path) as db:
            before = msgspec.to_builtins(prove(db, 700))
        middle = time.time_ns()
        await record(store, 1024)
        assert await store.prune(before_ns=middle, most=None) == 1024
        assert await store.prune(before_ns=middle, most=None) == 0
        late = await store.checkpoint()
        found = good(path, early, late)
        assert (found.size, found.removed) == (2049, 1024)
        await store.evolve()
        await record(store, 512)
    found = good(path, early, late)
    assert found.checked == found.size - 1024
    with open_log(path) as log:
        (said,) = log.find(Filters(kinds=["audit.pruned"]))
    assert (said.fields()["first"], said.fields()["last"]) == (1, 1024)
    assert said.fields()["leaves"] is True
    with opened(path) as db:
        for number in (1025, 1500, found.size):
            checker.check(msgspec.to_builtins(prove(db, number)))
        with pytest.raises(SetupError, match="event 700: the event was removed"):
            prove(db, 700)
        # Who has the event still has its proof, also against the roots of now.
        checker.check(before, kept=None)
        assert prove(db, 1100, parse_note(late)).proof


async def test_the_bodies_are_really_gone(path: Path) -> None:
    secret = "a-name-that-nobody-must-find-again"
    async with open_store(path) as store:
        await store.record(schema.TransferBegin(transfer=1, target="x", object=secret))
        await record(store, 1024)
        await store.prune(before_ns=time.time_ns(), most=None)
        store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert secret.encode() not in path.read_bytes()


async def test_a_log_that_is_too_large_loses_the_oldest_with_their_hashes(
    path: Path,
) -> None:
    most = 1 << 20
    async with open_store(path) as store:
        await record(store, 512)
        early = await store.checkpoint()
        await store.evolve()
        sizes = []
        for _ in range(12):
            await record(store, 512)
            await store.prune(before_ns=None, most=most)
            sizes.append(used_bytes(store._db))
        assert max(sizes) <= most
        late = await store.checkpoint()
    found = good(path, late)
    assert found.removed > 3000
    assert found.removed % BLOCK == 0
    # A checkpoint inside of a removed range can be compared only at whole blocks.
    assert good(path, early).against == 1
    with opened(path) as db:
        checker.check(msgspec.to_builtins(prove(db, found.size)))
        with pytest.raises(RefusedError, match="and their hashes were removed"):
            Nodes(db).root(100)
    async with open_store(path) as store:
        await record(store, 256)
    good(path, late)


async def test_a_removal_that_the_log_does_not_speak_of(path: Path) -> None:
    """An attacker who removes events as retention would, without the event that says so."""
    async with open_store(path) as store:
        await record(store, 1024)
        await store.prune(before_ns=time.time_ns(), most=None)
    with opened(path) as db:
        rows = db.execute(
            "SELECT leaf FROM event WHERE sequence BETWEEN 513 AND 768"
        ).fetchall()
        leaves = b"".join(leaf for (leaf,) in rows)
        db.execute("INSERT INTO pruned VALUES (2, ?)", (leaves,))
        db.execute("DELETE FROM event WHERE sequence BETWEEN 513 AND 768")
        found = report(db, path)
    assert not found.good
    assert (found.problems[0].first, found.problems[0].last) == (513, 768)
    assert "no event records the removal" in found.problems[0].what


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE pruned SET leaves = zeroblob(8192) WHERE block = 1",
        "UPDATE pruned SET leaves = zeroblob(5) WHERE block = 1",
        "DELETE FROM pruned WHERE block = 0",
        "INSERT INTO pruned VALUES (3, NULL)",
    ],
)
async def test_hashes_of_removed_events_cannot_be_changed(
    path: Path, statement: str
) -> None:
    async with open_store(path) as store:
        await record(store, 1024)
        await store.prune(before_ns=time.time_ns(), most=None)
    with opened(path) as db:
        db.execute(statement)
        assert not report(db, path).good


async def test_a_small_log_keeps_all_events(path: Path) -> None:
    async with open_store(path) as store:
        await record(store, 512)
        assert await store.prune(before_ns=time.time_ns() * 2, most=1) == 0
    good(path)


async def test_what_a_receiver_has_not_got_stays_but_for_the_size(path: Path) -> None:
    async with open_store(path) as store:
        await record(store, 1536)
        old = {"before_ns": time.time_ns(), "most": None}
        assert await store.prune(**old, shipped=0) == 0
        assert await store.prune(**old, shipped=600) == 512
        assert await store.prune(**old, shipped=1000) == 256
        assert await store.prune(before_ns=None, most=1, shipped=0) > 0
    good(path)
