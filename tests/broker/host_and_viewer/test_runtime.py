"""Records that are read again: on record before they hold, whatever their names."""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing

from broker.authority.records.sandboxes import Records
from broker.core.errors import UpstreamError
from broker.core.paths import Paths
from broker.ipc.audit import schema
from tests.kit.link.roles import journal
from tests.kit.world import record


@pytest.fixture
def paths(tmp_path):
    made = Paths(
        runtime=tmp_path / "run",
        state=tmp_path / "state",
        cache=tmp_path / "cache",
        config=(tmp_path / "config",),
    )
    (made.config[0] / "sandboxes.d").mkdir(parents=True)
    return made


def write(paths, name, text):
    (paths.config[0] / "sandboxes.d" / name).write_text(text)


async def test_records_hold_once_they_are_on_record(tmp_path, paths, monkeypatch):
    """A rule that cannot be shown later must not allow anything."""
    async with journal(tmp_path) as log:
        records = Records(paths, None, log)
        await records.record()
        before = records.now
        write(paths, "a.toml", record())

        async def full(event):
            assert not isinstance(event, schema.PolicyLoaded) or records.now is before
            raise UpstreamError("the audit log cannot be written")

        with monkeypatch.context() as disk:
            disk.setattr(log._store, "record", full)
            with pytest.raises(UpstreamError, match="cannot be written"):
                await records.reload()
        assert records.now is before
        await records.reload()
        assert set(records.now.records) == {"a"}


async def test_an_older_reading_does_not_replace_a_newer_one(
    tmp_path, paths, monkeypatch
):
    """The disk is slow for the first of two; a record changes between them."""
    async with journal(tmp_path) as log:
        records = Records(paths, None, log)
        await records.record()
        require, held, go_on = log.require, [], trio.Event()

        async def slow(event):
            held.append(event)
            if len(held) == 1:
                await go_on.wait()
            await require(event)

        monkeypatch.setattr(log, "require", slow)
        write(paths, "a.toml", record("persistent"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(records.reload)
            while not held:
                await trio.testing.wait_all_tasks_blocked()
            write(paths, "a.toml", record("persistent", display="none"))
            nursery.start_soon(records.reload)
            await trio.testing.wait_all_tasks_blocked(0.05)
            go_on.set()
        assert records.now.records["a"].viewer.display == "none"


async def test_names_that_are_no_text_and_very_many_problems(tmp_path, paths):
    """A file's name may hold any byte; neither may it keep a broker from starting."""
    folder = os.fsencode(paths.config[0] / "sandboxes.d")
    with open(folder + b"/\xff\xfe.toml", "w") as file:
        file.write("class = 1")
    for number in range(300):
        write(paths, f"r{number}.toml", record() + f"nonsense-{'x' * 300} = 1\n")
        write(paths, f"ok{number}.toml", record())
    async with journal(tmp_path) as log:
        records = Records(paths, None, log)
        await records.record()
        assert len(records.now.records) == 300
        assert len(records.now.problems) >= 301
        assert log._store.statistics().events == 2


async def test_a_record_with_a_typo_keeps_its_last_good_version(tmp_path, paths):
    """It is reported, the others change, and records that never were good or are gone are not kept."""
    async with journal(tmp_path) as log:
        for name in ("a.toml", "b.toml", "c.toml"):
            write(paths, name, record("persistent"))
        records = Records(paths, None, log)
        before = records.now
        write(paths, "a.toml", record("persistent") + "typo = 1\n")
        write(paths, "b.toml", record("persistent", display="none"))
        write(paths, "new.toml", "class = 7\n")
        (paths.config[0] / "sandboxes.d" / "c.toml").unlink()
        await records.reload()
        assert records.now.records["a"] is before.records["a"]
        assert records.now.records["b"].viewer.display == "none"
        assert set(records.now.records) == {"a", "b"}
        assert set(records.now.broken) == {"a", "new"}, "to start by it is an error"
        assert len(records.now.problems) >= 2
        assert records.now.digest != before.digest
        write(paths, "a.toml", record("persistent", display="none"))
        await records.reload()
        assert records.now.records["a"].viewer.display == "none"


async def test_a_restart_while_a_record_has_a_typo(tmp_path, paths):
    """Running sandboxes keep their settings; a removed record is not brought back."""
    async with journal(tmp_path) as log:
        write(paths, "base.toml", record("persistent", colour="red"))
        write(paths, "a.toml", 'inherits = "base"\nclass = "persistent"\n')
        write(paths, "b.toml", record("persistent"))
        first = Records(paths, None, log)
        await first.record()
        kept = paths.state / "policy" / "records"
        assert {path.name for path in kept.iterdir()} == {
            "base.toml",
            "a.toml",
            "b.toml",
        }
        assert kept.stat().st_mode & 0o777 == 0o700
        assert {p.stat().st_mode & 0o777 for p in kept.iterdir()} == {0o600}
        write(paths, "base.toml", "nonsense")
        (paths.config[0] / "sandboxes.d" / "b.toml").unlink()
        again = Records(paths, None, log)
        await again.record()
        assert set(again.now.records) == {"base", "a"}
        assert again.now.records["a"].viewer.label.colour == "#d55e00"
        assert set(again.now.broken) == {"base", "a"}, "to start by it is an error"
        assert {path.name for path in kept.iterdir()} == {"base.toml", "a.toml"}
        # Mended, it holds at once, and a later restart has the new one.
        write(paths, "base.toml", record("persistent", colour="blue"))
        await again.reload()
        third = Records(paths, None, log)
        assert third.now.records["a"].viewer.label.colour == "#0072b2"
        assert not third.now.broken
