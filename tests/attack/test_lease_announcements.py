"""A host that announces leases as fast as it likes: each asks for the records anew."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager

import pytest
import trio

from broker.authority.records import changes, sandboxes
from broker.authority.records.changes import Stamp
from broker.authority.records.sandboxes import Records
from tests.broker.host_and_viewer.test_runtime import journal, paths, record, write
from tests.kit.eventually import eventually

__all__ = ["paths"]

CALLS = 50


class Readings:
    """How often all records were read, and what a reading waits for."""

    def __init__(self, monkeypatch) -> None:
        self.count = 0
        self.go_on = threading.Event()
        self.go_on.set()
        whole = sandboxes.load_records

        def load(*args, **kwargs):
            self.count += 1
            assert self.go_on.wait(60)
            return whole(*args, **kwargs)

        monkeypatch.setattr(sandboxes, "load_records", load)


@pytest.fixture
def settled(monkeypatch):
    """Times of files show each change: as if the files were older than a clock tick."""
    monkeypatch.setattr(changes, "_SETTLED_NS", -1)


async def test_records_that_have_not_changed_are_read_for_no_lease(
    tmp_path, paths, monkeypatch, settled
):
    write(paths, "a.toml", record())
    async with journal(tmp_path) as log:
        records = Records(paths, None, log)
        readings = Readings(monkeypatch)
        for _ in range(CALLS):
            await records.reload()
        assert readings.count == 0
        write(paths, "b.toml", record())
        await records.reload()
        assert readings.count == 1
        assert set(records.now.records) == {"a", "b"}


@asynccontextmanager
async def held_readings(tmp_path, paths, monkeypatch):
    """Records, whose readings wait for ``go_on``; yields both."""
    async with journal(tmp_path) as log:
        records = Records(paths, None, log)
        readings = Readings(monkeypatch)
        readings.go_on.clear()
        with trio.fail_after(60):
            yield records, readings


async def test_leases_that_come_together_are_one_reading_beside_all_else(
    tmp_path, paths, monkeypatch
):
    """The viewer answers meanwhile: a reading is not in its loop's way."""
    write(paths, "a.toml", record())
    async with held_readings(tmp_path, paths, monkeypatch) as (records, readings):
        async with trio.open_nursery() as nursery:
            for _ in range(CALLS):
                nursery.start_soon(records.reload)
            await eventually(lambda: readings.count)
            readings.go_on.set()
        # The first has one: the others came after it had begun.
        assert readings.count <= 2


async def test_who_asks_while_records_are_read_gets_a_later_reading(
    tmp_path, paths, monkeypatch
):
    async with held_readings(tmp_path, paths, monkeypatch) as (records, readings):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(records.reload)
            await eventually(lambda: readings.count)
            write(paths, "late.toml", record())
            nursery.start_soon(records.reload)
            readings.go_on.set()
        assert set(records.now.records) == {"late"}


def test_files_that_changed_a_moment_ago_may_have_changed_again(tmp_path):
    """Two edits within one tick of the kernel's clock have the same times."""
    (tmp_path / "a.toml").write_text("a")
    one, two = Stamp([tmp_path]), Stamp([tmp_path])
    assert not two.same(one)
    assert not two.same(None)


def test_a_directory_that_cannot_be_read_is_a_state_like_others(tmp_path, settled):
    gone = tmp_path / "gone"
    one = Stamp([gone])
    assert Stamp([gone]).same(one)
    gone.mkdir()
    assert not Stamp([gone]).same(one)


def test_a_directory_that_nobody_may_read_is_not_one_that_is_missing(tmp_path, settled):
    """What the records in it would say is not known, so they are looked at."""
    hidden = tmp_path / "hidden"
    one = Stamp([hidden])
    hidden.mkdir(mode=0)
    assert not Stamp([hidden]).same(one)


def test_more_files_than_one_look_covers_may_have_changed(
    tmp_path, settled, monkeypatch
):
    for name in "abc":
        (tmp_path / f"{name}.toml").write_text(name)
    assert Stamp([tmp_path]).same(Stamp([tmp_path]))
    monkeypatch.setattr(changes.limits, "RULES_LOOKED_AT", 2)
    assert not Stamp([tmp_path]).same(Stamp([tmp_path]))
