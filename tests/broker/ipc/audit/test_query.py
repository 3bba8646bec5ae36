"""Asking the log, beside a writer and without one."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from broker.authority.audit.store import open_store
from broker.core.errors import SetupError, UpstreamError
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.ipc.audit.schema import (
    BrokerStart,
    Decision,
    EventVerdict,
    LeaseBegin,
    LeaseEnd,
    StreamClosed,
    StreamOpened,
)
from tests.kit.eventually import eventually

EVENTS = [
    BrokerStart(software="0.1", pid=1),
    LeaseBegin(sandbox="web", lease="aa"),
    Decision(sandbox="web", lease="aa", verdict=EventVerdict.ALLOW),
    StreamOpened(sandbox="web", lease="aa"),
    LeaseBegin(sandbox="mail", lease="bb"),
    StreamClosed(
        sandbox="web", lease="aa", bytes_from_sandbox=1, bytes_to_sandbox=2, seconds=3
    ),
    LeaseEnd(sandbox="mail", lease="bb"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    where = tmp_path / "audit.sqlite"

    async def fill() -> None:
        async with open_store(where) as store:
            for event in EVENTS:
                await store.record(event)

    trio.run(fill)
    return where


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(), [1, 2, 3, 4, 5, 6, 7]),
        (Filters(sandboxes=["mail"]), [5, 7]),
        (Filters(sandboxes=["mail", "web"]), [2, 3, 4, 5, 6, 7]),
        (Filters(kinds=["stream"]), [4, 6]),
        (Filters(kinds=["stream.closed", "decision"]), [3, 6]),
        (Filters(kinds=["stream", "lease"], sandboxes=["web"]), [2, 4, 6]),
        (Filters(leases=["bb"]), [5, 7]),
        (Filters(kinds=["strea"]), []),
        (Filters(kinds=["%"]), []),
        (Filters(sandboxes=["' OR 1=1 --"]), []),
        (Filters(since_ns=0), [1, 2, 3, 4, 5, 6, 7]),
        (Filters(since_ns=1 << 62), []),
    ],
)
def test_filters(path: Path, filters: Filters, expected: list[int]) -> None:
    with open_log(path) as log:
        assert [found.sequence for found in log.find(filters)] == expected


def test_since_the_time_of_an_event_includes_it(path: Path) -> None:
    with open_log(path) as log:
        fourth = list(log.find(Filters()))[3]
        since = Filters(since_ns=fourth.time_ns)
        assert [f.sequence for f in log.find(since)] == [4, 5, 6, 7]


def test_the_last_ones_come_oldest_first(path: Path) -> None:
    with open_log(path) as log:
        assert [f.sequence for f in log.find(Filters(), last=2)] == [6, 7]
        assert [f.sequence for f in log.find(Filters(kinds=["lease"]), last=1)] == [7]
        assert list(log.find(Filters(), last=0)) == []
        assert [f.sequence for f in log.find(Filters(), after=5)] == [6, 7]


async def test_more_than_a_page(path: Path) -> None:
    async with open_store(path) as store, trio.open_nursery() as nursery:
        for _ in range(2000):
            nursery.start_soon(store.record, LeaseEnd(sandbox="x"))
    with open_log(path) as log:
        assert [f.sequence for f in log.find(Filters(sandboxes=["x"]))] == list(
            range(8, 2008)
        )
        assert log.newest() == 2007
        assert log.check() == "ok"


async def test_it_reads_while_a_broker_writes_and_changes_nothing(path: Path) -> None:
    async with open_store(path) as store:
        with open_log(path) as log:
            assert log.newest() == 7
            await store.record(EVENTS[0])
            assert log.newest() == 8
            with pytest.raises(UpstreamError, match="readonly"):
                log._rows("DELETE FROM event", [])
            await store.record(EVENTS[0])


async def test_follow_sees_recorded_events_that_match_its_filters(
    path: Path,
) -> None:
    got: list[int] = []
    async with open_store(path) as store:
        with open_log(path) as log:
            enough = trio.Event()

            async def follow() -> None:
                asked = Filters(sandboxes=["web"])
                async with aclosing(log.follow(asked, after=5)) as events:
                    async for found in events:
                        got.append(found.sequence)
                        if len(got) == 3:
                            enough.set()

            with trio.fail_after(20):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(follow)
                    await store.record(LeaseEnd(sandbox="mail"))
                    await store.record(LeaseEnd(sandbox="web"))
                    await eventually(lambda: 9 in got)
                    await store.record(LeaseEnd(sandbox="web"))
                    await enough.wait()
                    nursery.cancel_scope.cancel()
    assert got == [6, 9, 10]


def test_no_log_yet(tmp_path: Path) -> None:
    with (
        pytest.raises(SetupError, match="no audit log yet"),
        open_log(tmp_path / "audit.sqlite"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_log(tmp_path: Path) -> None:
    file = tmp_path / "audit.sqlite"
    file.write_bytes(b"x" * 5000)
    with pytest.raises(SetupError, match="is not an audit log"), open_log(file):
        pass
    file.write_bytes(b"")
    with (
        pytest.raises(SetupError, match="does not contain an audit log"),
        open_log(file),
    ):
        pass


def test_a_device_is_no_log() -> None:
    with (
        pytest.raises(SetupError, match="/dev/full is not a regular file"),
        open_log(Path("/dev/full")),
    ):
        pass


def test_a_log_that_cannot_be_opened_is_not_called_damaged(tmp_path: Path) -> None:
    """Nobody is told to move a log away because it cannot be read just now."""
    file = tmp_path / "audit.sqlite"
    file.mkdir()
    with (
        pytest.raises(UpstreamError, match="cannot open the audit log") as caught,
        open_log(file),
    ):
        pass
    assert "move the file away" not in caught.value.hint


def test_odd_characters_in_the_path(path: Path) -> None:
    odd = path.with_name("a?b#c%20d&mode=rwc.sqlite")
    odd.write_bytes(path.read_bytes())
    with open_log(odd) as log:
        assert log.newest() == 7


def test_an_event_of_a_later_version_can_be_read(path: Path) -> None:
    import sqlite3

    with sqlite3.connect(path) as db:
        db.execute(
            "INSERT INTO event VALUES (8, 9, 'moon.landed', '', '', '', '', '', '', '',"
            '\'{"kind":"moon.landed","feet":2}\', x\'00\')'
        )
    db.close()
    with open_log(path) as log:
        (found,) = log.find(Filters(kinds=["moon"]))
    assert found.fields() == {"kind": "moon.landed", "feet": 2}
