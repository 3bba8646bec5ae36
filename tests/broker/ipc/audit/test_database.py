"""The file: migrated from what older versions wrote, columns, and the tree."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from broker.authority.audit.store import open_store
from broker.ipc.audit import schema
from broker.ipc.audit.database import COLUMNS, load_tree, open_database, row_of
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.ipc.audit.tree import Growing, leaf_hash

RECORDED = Path(__file__).parents[3] / "corpus" / "audit" / "v1.sqlite"
"""Written by the audit log's first version, closed in order."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "audit.sqlite"
    shutil.copy(RECORDED, path)
    return path


def everything(path: Path, columns: str = "*") -> list[tuple]:
    uri = f"file:{path}" + ("?immutable=1" if path == RECORDED else "")
    db = sqlite3.connect(uri, uri=True)
    try:
        return db.execute(f"SELECT {columns} FROM event ORDER BY sequence").fetchall()
    finally:
        db.close()


async def test_a_log_of_version_1_is_taken_over(old: Path) -> None:
    before = everything(RECORDED, "sequence, time_ns, kind, sandbox, lease, body")
    with open_log(old) as log:
        assert len([*log.find(Filters(services=["vitrail.Agent"]))]) == 3
    async with open_store(old) as store:
        assert await store.record(schema.BrokerStop()) == len(before) + 2
    after = everything(old, "sequence, time_ns, kind, sandbox, lease, body")
    assert after[: len(before)] == before, "not one byte of the events"
    with open_log(old) as log:
        taken, stop = log.find(Filters(), after=len(before))
    assert taken.fields()["kind"] == "audit.migrated"
    assert taken.fields()["from_version"] == 1
    assert taken.fields()["events"] == len(before) == 289
    assert stop.kind == "broker.stop"


async def test_the_second_opening_migrates_nothing(old: Path) -> None:
    for _ in range(2):
        async with open_store(old):
            pass
    assert len(everything(old)) == 290


async def test_columns_and_leaves_are_made_from_the_bodies(old: Path) -> None:
    async with open_store(old) as store:
        await store.record(
            schema.Decision(
                sandbox="a", lease="b", service="c", peer="d", outcome="e",
                verdict=schema.EventVerdict.DENY, rule="f",
            )
        )  # fmt: skip
    rows = everything(old, f"{', '.join(COLUMNS)}, body, leaf")
    assert rows[-1][3:10] == ("a", "b", "c", "deny", "f", "d", "e")
    for row in rows:
        *columns, body, leaf = row
        assert tuple(columns) == row_of(schema.decode(body))
        assert leaf == leaf_hash(body.encode())


async def test_the_tree_is_the_same_however_it_was_made(old: Path) -> None:
    async with open_store(old) as store:
        for number in range(600):
            await store.record(schema.LeaseEnd(generation=number))
        whole = store._tree
    plain = Growing()
    stored = []
    for (body,) in everything(old, "body"):
        stored += plain.append(leaf_hash(body.encode()))
    assert (whole.size, whole.root()) == (plain.size, plain.root())
    db, version = open_database(old)
    with_subtrees = load_tree(db)
    assert version == 3
    assert with_subtrees == plain
    found = db.execute("SELECT height, number, hash FROM subtree ORDER BY number")
    assert found.fetchall() == [(s.height, s.number, s.hash) for s in stored]
    assert len(stored) == 3
    db.execute("DELETE FROM subtree")
    assert load_tree(db) == plain
    db.close()


async def test_a_commit_that_fails_does_not_grow_the_tree(tmp_path: Path) -> None:
    async with open_store(tmp_path / "a" / "audit.sqlite") as store:
        await store.record(schema.BrokerStop())
        before = store._tree.copy()
        store._db.execute("PRAGMA query_only = 1")
        with pytest.raises(Exception, match="cannot write"):
            await store.record(schema.BrokerStop())
        assert store._tree == before
        store._db.execute("PRAGMA query_only = 0")
        assert await store.record(schema.BrokerStop()) == 2
