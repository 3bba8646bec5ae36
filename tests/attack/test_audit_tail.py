"""The log's end is cut off, or an older copy is put back, by an attacker without the key.

The attacker is as strong as docs/audit.md assumes: a copy of the log after every
commit, every note that was ever in it, and free choice of the content of the
file's tables.  Only the key file is out of reach.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from broker.authority.audit.proof.keys import KeyFile
from broker.authority.audit.store import open_store
from broker.cli.audit.proof.verify import verify_end
from broker.core.errors import IntegrityError
from tests.kit.audit.log import event, opened, report

EVENTS = 24


class Observer:
    """Copies the log's file and its notes after every commit."""

    def __init__(self, path: Path, copies: Path) -> None:
        self._path = path
        self._copies = copies
        copies.mkdir()
        self.notes: dict[int, set[str]] = {}

    def look(self) -> None:
        """Take what there is now."""
        with closing(sqlite3.connect(self._path)) as db:
            for size, note in db.execute("SELECT size, note FROM checkpoint"):
                self.notes.setdefault(size, set()).add(note)
            (size,) = db.execute("SELECT count(*) FROM event").fetchone()
            with closing(sqlite3.connect(self._copies / str(size))) as copy:
                db.backup(copy)

    def copies(self) -> list[Path]:
        """One for each size, the newest last."""
        return sorted(self._copies.iterdir(), key=lambda path: int(path.name))


async def record_observed(path: Path, copies: Path) -> Observer:
    """Write a log with published checkpoints; its broker is then killed."""
    observer = Observer(path, copies)
    async with open_store(path) as store:
        for number in range(EVENTS):
            await store.record(event(number))
            if number == 7:
                await store.evolve()
            if number % 5 == 0:
                await store.checkpoint()
            observer.look()
    return observer


def cut(db: sqlite3.Connection, size: int, head: str) -> None:
    """Make the log end at a size, under a note that once was in it."""
    db.execute("DELETE FROM event WHERE sequence > ?", (size,))
    db.execute("DELETE FROM subtree WHERE (number + 1) << height > ?", (size,))
    db.execute("DELETE FROM checkpoint WHERE size > ? OR kind = 'head'", (size,))
    db.execute("INSERT INTO checkpoint VALUES (?, 'head', 0, ?)", (size, head))


async def assert_noticed(path: Path) -> None:
    with opened(path) as db:
        assert not report(db, path).good
        assert not verify_end(db, KeyFile(path).any()).good
    with pytest.raises(IntegrityError):
        async with open_store(path):
            pass


@pytest.fixture(name="restarts", params=[0, 1], ids=["killed", "started again"])
def _restarts(request) -> int:
    return request.param


async def _attacked(tmp_path: Path, restarts: int) -> tuple[Path, Observer]:
    path = tmp_path / "audit.sqlite"
    observer = await record_observed(path, tmp_path / "copies")
    for number in range(restarts):
        async with open_store(path) as store:
            await store.record(event(number))
    return path, observer


async def test_a_cut_under_any_note_of_the_log_is_noticed(tmp_path, restarts):
    path, observer = await _attacked(tmp_path, restarts)
    original = path.read_bytes()
    tried = 0
    for size, notes in observer.notes.items():
        if size > EVENTS - 1 + restarts:
            continue
        for note in notes:
            path.write_bytes(original)
            with opened(path) as db:
                cut(db, size, note)
            await assert_noticed(path)
            tried += 1
    assert tried >= EVENTS


async def test_an_older_copy_of_the_log_is_noticed(tmp_path, restarts):
    path, observer = await _attacked(tmp_path, restarts)
    for copy in observer.copies()[: None if restarts else -1]:
        shutil.copy(copy, path)
        await assert_noticed(path)


async def test_the_newest_copy_of_the_log_is_the_log(tmp_path):
    """The attacks above fail because bytes are missing, not because the log is a copy."""
    path, observer = await _attacked(tmp_path, 0)
    shutil.copy(observer.copies()[-1], path)
    with opened(path) as db:
        assert report(db, path).good
    async with open_store(path) as store:
        await store.record(event(1))


async def test_a_power_cut_then_a_cut_to_the_first_note(tmp_path):
    """Then only the text of a published checkpoint tells it from a head.

    The size beside the key is flushed less often than the log, so it may be an
    older one after a power cut; the first note of the key's life is then the
    shortest log that it allows.
    """
    path = tmp_path / "audit.sqlite"
    observer = await record_observed(path, tmp_path / "copies")
    key = path.with_suffix(".key")
    text = key.read_text()
    (current,) = KeyFile(path).any()
    key.write_text(text.replace(f"{current.newest:020}", f"{11:020}"))
    with opened(path) as db:
        assert report(db, path).good
    kept = [note for note in observer.notes[11] if "vitrail-head" not in note]
    assert len(kept) == 1
    with opened(path) as db:
        cut(db, 11, kept[0])
    await assert_noticed(path)


async def test_each_start_has_its_own_key(tmp_path):
    """So that a head of an earlier run is signed by a key that is gone."""
    path = tmp_path / "audit.sqlite"
    public = set()
    for number in range(3):
        async with open_store(path) as store:
            await store.record(event(number))
        public |= {key.public for key in KeyFile(path).any()}
    assert len(public) == 3
