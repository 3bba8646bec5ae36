"""Heads in every commit, keys that evolve, and a log that does not fit its key."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from pathlib import Path

import pytest

from broker.authority.audit.proof import keys
from broker.authority.audit.proof.ed25519 import is_signed_by
from broker.authority.audit.proof.keys import KeyFile, SigningKey
from broker.authority.audit.proof.note import origin_of, parse_note
from broker.authority.audit.store import open_store
from broker.core.errors import IntegrityError, UpstreamError
from broker.ipc.audit import schema
from tests.kit.audit.log import opened, report

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
            assert is_signed_by(head, store._seal.key.public)


async def test_a_first_key_names_the_log_and_signs_itself(path: Path) -> None:
    async with open_store(path) as store:
        (first,) = notes(path, "key")
        assert first.checkpoint.change.index == 0
        public = first.checkpoint.change.key
        assert is_signed_by(first, public)
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
        assert is_signed_by(found, public)
        public = found.checkpoint.change.key
    (head,) = notes(path, "head")
    assert is_signed_by(head, public)
    everything = b"".join(f.read_bytes() for f in path.parent.iterdir())
    for seed in seeds:
        assert seed.encode() not in everything
    async with open_store(path) as store:
        assert store._seal.key.index == 9, "a start has a key of its own"
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
        assert store._seal.key.index == (1 if where == "before" else 2)
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
        assert store._seal.key.index == 2
        await store.record(STOP)
        await store.evolve()
    assert not path.with_suffix(".key.next").exists()


async def test_a_next_key_that_no_broker_wrote(path: Path) -> None:
    await _filled(path)
    path.with_suffix(".key.next").write_text("vitrail audit key 1\n")
    with pytest.raises(IntegrityError, match="not written by a broker"):
        async with open_store(path):
            pass


async def test_a_key_that_could_not_be_adopted_is_not_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker continues, and a later change must not take its only copy."""
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
        assert store._seal.key.index == 2
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
        with pytest.raises(UpstreamError, match="crash"):
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
        (["DELETE FROM checkpoint"], "checkpoints are missing"),
        (["DELETE FROM checkpoint WHERE kind = 'head'"], "differs from the signed"),
        (["DELETE FROM checkpoint WHERE kind = 'key 1'"], "older copy"),
        (["DELETE FROM event WHERE sequence = 5"], "truncated"),
        (["UPDATE event SET leaf = zeroblob(32) WHERE sequence = 2"], "differs from"),
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
    with pytest.raises(IntegrityError, match="key is missing"):
        async with open_store(path):
            pass
    shutil.copy(other.with_suffix(".key"), key)
    with pytest.raises(IntegrityError, match="belongs to another log"):
        async with open_store(path):
            pass
    key.write_text("vitrail audit key 1\n")
    with pytest.raises(IntegrityError, match="not written by a broker"):
        async with open_store(path):
            pass
    key.write_text(saved)
    async with open_store(path) as store:
        await store.record(STOP)


def test_a_key_does_not_print_its_secret() -> None:
    key = SigningKey.first(7)
    assert keys._parse(key.text(), "x").newest == 7
    assert key.private.seed.hex() not in repr(key)
    assert str(key.private.seed) not in repr(key)
    assert keys._parse(key.text(), "x").public == key.public


async def test_the_key_file_knows_the_newest_size(path: Path) -> None:
    """At every commit, and under the next key from its first moment on."""
    async with open_store(path) as store:
        for number in range(1, 4):
            await store.record(STOP)
            (key,) = KeyFile(path).any()
            assert key.newest == number == store.size
        await store.evolve()
        (key,) = KeyFile(path).any()
        assert (key.index, key.newest) == (1, 3)
        await store.record(STOP)
        (key,) = KeyFile(path).any()
        assert key.newest == 4


async def test_a_size_that_cannot_be_noted_stops_the_next_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event is committed, so it is no failure; but no second one goes unnoted."""
    async with open_store(path) as store:
        with monkeypatch.context() as machine:
            machine.setattr(KeyFile, "record_newest", _crash)
            assert await store.record(STOP) == 1
            for _ in range(2):
                with pytest.raises(UpstreamError, match="crash"):
                    await store.record(STOP)
            assert store.size == 1
        assert await store.record(STOP) == 2
        (key,) = KeyFile(path).any()
        assert key.newest == 2
    with opened(path) as db:
        assert report(db, path).good


# -- a log whose heads and checkpoints had one text ---------------------------------------


@pytest.fixture(name="old")
def _old(tmp_path: Path) -> Path:
    """Thirty events, written by version 0.1 and left by a broker that was killed."""
    path = tmp_path / "old" / "audit.sqlite"
    path.parent.mkdir(mode=0o700)
    corpus = Path(__file__).parents[4] / "corpus" / "audit"
    shutil.copy(corpus / "v2.sqlite", path)
    shutil.copy(corpus / "v2.key", path.with_suffix(".key"))
    return path


async def test_a_log_of_before_verifies_and_goes_on(old: Path) -> None:
    with opened(old) as db:
        assert report(db, old).good
    (key,) = KeyFile(old).any()
    assert (key.index, key.newest) == (1, None)
    async with open_store(old) as store:
        (key,) = KeyFile(old).any()
        assert (key.index, key.newest) == (2, 30)
        await store.record(STOP)
        await store.checkpoint()
    with opened(old) as db:
        found = report(db, old)
    assert (found.good, found.size, found.keys) == (True, 31, 3), found.problems
    # What its old key signed cannot be the log's end any more.
    change(
        old,
        "DELETE FROM event WHERE sequence > 20",
        "DELETE FROM checkpoint WHERE kind = 'head'",
        "UPDATE checkpoint SET kind = 'head' WHERE kind = 'kept' AND size = 20",
    )
    with opened(old) as db:
        assert not report(db, old).good
    with pytest.raises(IntegrityError):
        async with open_store(old):
            pass
