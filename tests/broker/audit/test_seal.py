"""Heads in every commit, keys that evolve, and a log that does not fit its key."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from pathlib import Path

import pytest

from broker.audit import keys, schema
from broker.audit.keys import KeyFile, SigningKey
from broker.audit.note import origin_of, parse_note
from broker.audit.store import open_store
from broker.core.errors import IntegrityError, UpstreamError
from tests.kit.auditlog import opened, report

STOP = schema.BrokerStop(reason="asked")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "audit.sqlite"


def notes(path: Path, kind: str) -> list:
    db = sqlite3.connect(path)
    try:
        rows = db.execute(
            "SELECT note FROM checkpoint WHERE substr(kind, 1, ?) = ? ORDER BY size, kind",
            (len(kind), kind),
        ).fetchall()
    finally:
        db.close()
    return [parse_note(text) for (text,) in rows]


def change(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as db:
        for statement in statements:
            db.execute(statement)
    db.close()


async def test_every_commit_has_its_signed_head_and_no_more(path: Path) -> None:
    async with open_store(path) as store:
        for number in range(1, 6):
            await store.record(STOP)
            (head,) = notes(path, "head")
            assert head.checkpoint.size == number == store.size
            assert head.checkpoint.root == store._tree.root()
            assert head.signed_by(store._seal.key.public)


async def test_a_first_key_names_the_log_and_signs_itself(path: Path) -> None:
    async with open_store(path) as store:
        (first,) = notes(path, "key")
        assert first.checkpoint.change.index == 0
        public = first.checkpoint.change.key
        assert first.signed_by(public)
        assert store.origin == origin_of(public) == first.checkpoint.origin
        assert stat.S_IMODE(path.with_suffix(".key").stat().st_mode) == 0o600


async def test_a_published_head_stays(path: Path) -> None:
    async with open_store(path) as store:
        await store.record(STOP)
        note = await store.checkpoint()
        assert await store.checkpoint() == note
        await store.record(STOP)
    assert [kept.whole for kept in notes(path, "kept")] == [note]


async def test_keys_certify_each_other_and_the_old_one_is_gone(path: Path) -> None:
    key_file = path.with_suffix(".key")
    seeds = []
    async with open_store(path) as store:
        for _ in range(4):
            seeds.append(store._seal.key.text().split()[-1])
            old = key_file.open("rb")  # the file's own blocks, also once replaced
            await store.record(STOP)
            await store.evolve()
            assert set(old.read()) == {0}
            old.close()
            await store.evolve()  # without an event in between, too
    changes = notes(path, "key")
    assert [c.checkpoint.change.index for c in changes] == list(range(9))
    public = changes[0].checkpoint.change.key
    for found in changes:
        assert found.signed_by(public)
        public = found.checkpoint.change.key
    (head,) = notes(path, "head")
    assert head.signed_by(public)
    everything = b"".join(f.read_bytes() for f in path.parent.iterdir())
    for seed in seeds:
        assert seed.encode() not in everything
    async with open_store(path) as store:
        assert store._seal.key.index == 8
        await store.record(STOP)


@pytest.mark.parametrize("where", ["before", "certified", "erased"])
async def test_a_crash_while_the_key_changes(
    path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Whichever key the log names is in force afterwards."""
    async with open_store(path) as store:
        await store.record(STOP)
        with monkeypatch.context() as machine:
            if where == "before":
                machine.setattr(store._seal, "sign_head", _crash)
            elif where == "certified":
                machine.setattr(KeyFile, "adopt", _crash)
            else:
                machine.setattr(Path, "rename", _crash)
            with pytest.raises(UpstreamError, match="crash"):
                await store.evolve()
        assert path.with_suffix(".key.next").exists()
        assert len(KeyFile(path).any()) == (1 if where == "erased" else 2)
        with opened(path) as db:
            found = report(db, path)
        assert found.good, found.problems
    async with open_store(path) as store:
        assert store._seal.key.index == (0 if where == "before" else 1)
        assert not path.with_suffix(".key.next").exists()
        await store.record(STOP)
        await store.evolve()


@pytest.mark.parametrize("left", ["", "\0" * 150])
async def test_a_crash_before_the_next_key_is_written_or_after_it_is_erased(
    path: Path, left: str
) -> None:
    await _filled(path)
    path.with_suffix(".key.next").write_text(left)
    assert len(KeyFile(path).any()) == 1
    with opened(path) as db:
        assert report(db, path).good
    async with open_store(path) as store:
        assert store._seal.key.index == 1
        await store.record(STOP)
        await store.evolve()
    assert not path.with_suffix(".key.next").exists()


async def test_a_next_key_that_no_broker_wrote(path: Path) -> None:
    await _filled(path)
    path.with_suffix(".key.next").write_text("vitrail audit key 1\n")
    with pytest.raises(IntegrityError, match="not one that a broker wrote"):
        async with open_store(path):
            pass


async def test_a_key_that_could_not_be_adopted_is_not_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker goes on, and a later change must not take its only copy."""
    async with open_store(path) as store:
        await store.record(STOP)
        with monkeypatch.context() as machine:
            machine.setattr(KeyFile, "adopt", _crash)
            with pytest.raises(UpstreamError, match="crash"):
                await store.evolve()
        await store.record(STOP)
        with monkeypatch.context() as machine:
            machine.setattr(store._seal, "sign_head", _crash)
            with pytest.raises(UpstreamError, match="crash"):
                await store.evolve()
    async with open_store(path) as store:
        assert store._seal.key.index == 1
        await store.evolve()
    with opened(path) as db:
        assert report(db, path).good


def _crash(*_: object) -> None:
    raise OSError("crash")


async def test_a_crash_before_the_first_key_is_on_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as machine:
        machine.setattr(KeyFile, "stage", _crash)
        with pytest.raises(OSError, match="crash"):
            async with open_store(path):
                pass
    async with open_store(path) as store:
        await store.record(STOP)


async def _filled(path: Path) -> None:
    async with open_store(path) as store:
        for _ in range(3):
            await store.record(STOP)
        await store.evolve()
        await store.record(STOP)
        await store.checkpoint()
        await store.record(STOP)


@pytest.mark.parametrize(
    ("statements", "says"),
    [
        (["DELETE FROM checkpoint"], "checkpoints are gone"),
        (["DELETE FROM checkpoint WHERE kind = 'head'"], "not what was signed"),
        (["DELETE FROM checkpoint WHERE kind = 'key 1'"], "older copy"),
        (["DELETE FROM event WHERE sequence = 5"], "not what was signed"),
        (["UPDATE event SET leaf = zeroblob(32) WHERE sequence = 2"], "not what was"),
        (["UPDATE checkpoint SET note = 'x' WHERE kind = 'key 1'"], "was changed"),
        (["UPDATE checkpoint SET note = 'x' WHERE kind = 'head'"], "was changed"),
        (
            [
                "DELETE FROM event WHERE sequence = 5",
                "DELETE FROM checkpoint WHERE kind = 'head'",
                "UPDATE checkpoint SET kind = 'head' WHERE kind = 'kept'",
                "DELETE FROM checkpoint WHERE kind = 'key 1'",
            ],
            "older copy",
        ),
    ],
)
async def test_a_log_that_was_changed_is_not_sealed_again(
    path: Path, statements: list[str], says: str
) -> None:
    await _filled(path)
    change(path, *statements)
    with pytest.raises(IntegrityError, match=says) as caught:
        async with open_store(path):
            pass
    assert "audit verify" in caught.value.hint


async def test_a_key_that_is_gone_or_another_logs(path: Path, tmp_path: Path) -> None:
    await _filled(path)
    other = tmp_path / "other" / "audit.sqlite"
    await _filled(other)
    key = path.with_suffix(".key")
    saved = key.read_text()
    key.unlink()
    with pytest.raises(IntegrityError, match="key is gone"):
        async with open_store(path):
            pass
    shutil.copy(other.with_suffix(".key"), key)
    with pytest.raises(IntegrityError, match="another's"):
        async with open_store(path):
            pass
    key.write_text("vitrail audit key 1\n")
    with pytest.raises(IntegrityError, match="not one that a broker wrote"):
        async with open_store(path):
            pass
    key.write_text(saved)
    async with open_store(path) as store:
        await store.record(STOP)


def test_a_key_shows_its_secret_to_nobody() -> None:
    key = SigningKey.first()
    assert key.seed.hex() not in repr(key)
    assert str(key.seed) not in repr(key)
    assert keys._parse(key.text(), "x").public == key.public
