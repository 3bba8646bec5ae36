"""A parent is used only while it is whole, young and of the same key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.host.vmm.parent.parent_files import ParentStore

NOW = 1_700_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> ParentStore:
    return ParentStore(tmp_path / "parents")


def make(store: ParentStore, key: str = "k", made: float = NOW) -> None:
    with store.new() as room:
        (room / "memory").write_bytes(b"m" * 100)
        (room / "state").write_bytes(b"s" * 10)
        store.publish(room, "web", key, made)


def test_a_parent_is_found_by_record_and_key(store: ParentStore):
    assert store.find("web", "k", NOW) == (None, "no parent machine exists yet")
    make(store)
    parent, why = store.find("web", "k", NOW)
    assert parent is not None
    assert not why
    assert parent.memory.read_bytes() == b"m" * 100
    assert parent.memory.stat().st_mode & 0o777 == 0o400
    assert store.find("mail", "k", NOW)[0] is None


def test_another_key_removes_it(store: ParentStore):
    make(store)
    assert "another image" in store.find("web", "other", NOW)[1]
    assert list(store.root.iterdir()) == []


@pytest.mark.parametrize("age", [limits.PARENT_SECONDS + 1, -1])
def test_one_that_is_old_or_of_the_future_is_removed(store: ParentStore, age):
    make(store, made=NOW - age)
    assert "more than a day old" in store.find("web", "k", NOW)[1]
    assert list(store.root.iterdir()) == []


@pytest.mark.parametrize("name", ["memory", "state"])
def test_a_truncated_file_is_removed(store: ParentStore, name: str):
    make(store)
    path = store.root / "web" / name
    path.chmod(0o600)
    os.truncate(path, 5)
    assert "are truncated" in store.find("web", "k", NOW)[1]
    assert list(store.root.iterdir()) == []


def test_a_broken_description_is_removed(store: ParentStore):
    make(store)
    (store.root / "web" / "meta.json").write_text("{}")
    assert "cannot read" in store.find("web", "k", NOW)[1]
    assert list(store.root.iterdir()) == []


def test_a_newer_one_takes_its_place(store: ParentStore):
    make(store, "old")
    make(store, "new")
    assert store.find("web", "new", NOW)[0] is not None


def test_one_that_was_not_finished_leaves_nothing(store: ParentStore):
    with store.new() as room:
        (room / "memory").write_bytes(b"half")
    assert list(store.root.iterdir()) == []


def test_old_parents_are_swept_and_unfinished_ones_are_not(store: ParentStore):
    make(store)
    for name in (".new-dead", ".new-other"):
        (store.root / name).mkdir()
    os.utime(store.root / ".new-dead", (NOW, NOW - limits.PARENT_SECONDS))
    os.utime(store.root / ".new-other", (NOW, NOW))
    os.utime(store.root / "web", (NOW, NOW - 60))
    store.sweep(NOW)
    assert sorted(p.name for p in store.root.iterdir()) == [".new-other", "web"]
    store.sweep(NOW + limits.PARENT_SECONDS)
    assert list(store.root.iterdir()) == []


@pytest.mark.parametrize("name", ["memory", "state"])
def test_a_file_is_that_of_the_parent_that_was_found(store: ParentStore, name: str):
    """Another one may be published between the look and the copy."""
    make(store)
    found, _ = store.find("web", "k", NOW)
    assert found is not None
    fd = found.open(name)
    try:
        assert os.read(fd, 1) == name[:1].encode()
    finally:
        os.close(fd)
    make(store, key="another")
    with pytest.raises(UpstreamError, match="another process replaced"):
        found.open(name)
    store.drop("web")
    with pytest.raises(FileNotFoundError):
        found.open(name)
