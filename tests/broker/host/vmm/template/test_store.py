"""A template is used only while it is whole, young and of the same key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.host.vmm.template.store import TemplateStore

NOW = 1_700_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> TemplateStore:
    return TemplateStore(tmp_path / "templates")


def make(store: TemplateStore, key: str = "k", made: float = NOW) -> None:
    with store.new() as room:
        (room / "memory").write_bytes(b"m" * 100)
        (room / "state").write_bytes(b"s" * 10)
        store.publish(room, "web", key, made)


def test_a_template_is_found_by_record_and_key(store: TemplateStore):
    assert store.find("web", "k", NOW) == (None, "there is no template yet")
    make(store)
    template, why = store.find("web", "k", NOW)
    assert template is not None
    assert not why
    assert template.memory.read_bytes() == b"m" * 100
    assert template.memory.stat().st_mode & 0o777 == 0o400
    assert store.find("mail", "k", NOW)[0] is None


def test_another_key_removes_it(store: TemplateStore):
    make(store)
    assert "something else" in store.find("web", "other", NOW)[1]
    assert list(store.root.iterdir()) == []


@pytest.mark.parametrize("age", [limits.TEMPLATE_SECONDS + 1, -1])
def test_one_that_is_old_or_of_the_future_is_removed(store: TemplateStore, age):
    make(store, made=NOW - age)
    assert "older than a day" in store.find("web", "k", NOW)[1]
    assert list(store.root.iterdir()) == []


@pytest.mark.parametrize("name", ["memory", "state"])
def test_a_truncated_file_is_removed(store: TemplateStore, name: str):
    make(store)
    path = store.root / "web" / name
    path.chmod(0o600)
    os.truncate(path, 5)
    assert "not whole" in store.find("web", "k", NOW)[1]
    assert list(store.root.iterdir()) == []


def test_a_broken_description_is_removed(store: TemplateStore):
    make(store)
    (store.root / "web" / "meta.json").write_text("{}")
    assert "cannot be read" in store.find("web", "k", NOW)[1]
    assert list(store.root.iterdir()) == []


def test_a_newer_one_takes_its_place(store: TemplateStore):
    make(store, "old")
    make(store, "new")
    assert store.find("web", "new", NOW)[0] is not None


def test_one_that_was_not_finished_leaves_nothing(store: TemplateStore):
    with store.new() as room:
        (room / "memory").write_bytes(b"half")
    assert list(store.root.iterdir()) == []


def test_old_templates_are_swept_and_unfinished_ones_are_not(store: TemplateStore):
    make(store)
    for name in (".new-dead", ".new-other"):
        (store.root / name).mkdir()
    os.utime(store.root / ".new-dead", (NOW, NOW - limits.TEMPLATE_SECONDS))
    os.utime(store.root / ".new-other", (NOW, NOW))
    os.utime(store.root / "web", (NOW, NOW - 60))
    store.sweep(NOW)
    assert sorted(p.name for p in store.root.iterdir()) == [".new-other", "web"]
    store.sweep(NOW + limits.TEMPLATE_SECONDS)
    assert list(store.root.iterdir()) == []


@pytest.mark.parametrize("name", ["memory", "state"])
def test_a_file_is_that_of_the_template_that_was_found(store: TemplateStore, name: str):
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
    with pytest.raises(UpstreamError, match="was replaced"):
        found.open(name)
    store.drop("web")
    with pytest.raises(FileNotFoundError):
        found.open(name)
