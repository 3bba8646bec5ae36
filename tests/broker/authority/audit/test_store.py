"""The writer: durable, in order, shared commits, and closed when it fails."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest
import trio
import trio.testing

from broker.authority.audit.store import Store, open_store
from broker.authority.questions.queue import Queue
from broker.core.errors import InternalError, SetupError, UpstreamError
from broker.core.limits import audit as audit_limits
from broker.ipc.audit.database import MIGRATIONS
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.ipc.audit.schema import (
    BrokerStart,
    BrokerStop,
    Decision,
    EventVerdict,
    LeaseEnd,
    QuestionAsked,
)
from tests.kit.prompting import question
from tests.kit.threads import no_threads

STOP = BrokerStop(reason="asked")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "audit.sqlite"


def rows(path: Path) -> list[tuple[int, str]]:
    """What another program sees in the file."""
    with open_log(path) as log:
        return [(f.sequence, f.kind) for f in log.find(Filters())]


async def test_it_is_on_disk_when_record_returns(path: Path) -> None:
    async with open_store(path) as store:
        assert await store.record(BrokerStart(software="0.1", pid=1)) == 1
        assert rows(path) == [(1, "broker.start")]
        assert await store.record(STOP) == 2
        assert rows(path)[-1] == (2, "broker.stop")


async def test_events_of_one_call_are_in_one_commit_or_none_is_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their order, and those of the next call have the numbers after them."""
    start = BrokerStart(software="0.1", pid=1)
    async with open_store(path) as store:
        before = store.statistics()
        assert await store.record(start, STOP, start) == 1
        assert await store.record(STOP) == 4
        after = store.statistics()
        assert (after.events, after.commits) == (before.events + 4, before.commits + 2)
        with monkeypatch.context() as disk:
            disk.setattr(store._seal, "sign_head", _no_space)
            with pytest.raises(UpstreamError, match="cannot write"):
                await store.record(start, STOP)
        assert await store.record(start, STOP) == 5
    assert rows(path) == [
        *((1, "broker.start"), (2, "broker.stop"), (3, "broker.start")),
        *((4, "broker.stop"), (5, "broker.start"), (6, "broker.stop")),
    ]


def _no_space(_tree: object) -> None:
    raise OSError("no space")


async def test_questions_of_the_next_broker_have_other_numbers(path: Path) -> None:
    async with open_store(path) as store:
        assert store.last_question == 0
        for number in (3, 1, 2):
            await store.record(QuestionAsked(question=number, rule="", policy=""))
    async with open_store(path) as store:
        assert store.last_question == 3
        waiting = Queue(store.last_question)
        waiting.ask(question(), 0.0)
        assert [entry.id for entry in waiting.all()] == [4]


async def test_the_stamp_is_the_stores(path: Path) -> None:
    forged = BrokerStop(version=9, sequence=77, time_ns=5, boot="x", broker="y")
    async with open_store(path, broker="viewer") as store:
        await store.record(forged)
    with open_log(path) as log:
        (found,) = log.find(Filters())
    fields = found.fields()
    assert fields["version"] == 2
    assert fields["sequence"] == found.sequence == 1
    assert fields["time_ns"] == found.time_ns > 1_700_000_000_000_000_000
    assert fields["broker"] == "viewer"
    assert fields["boot"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


async def test_modes_are_private_whatever_the_umask(path: Path) -> None:
    old = os.umask(0)
    try:
        async with open_store(path) as store:
            await store.record(STOP)
            for file in path.parent.iterdir():
                assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
            assert {f.name for f in path.parent.iterdir()} >= {path.name + "-wal"}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    finally:
        os.umask(old)


async def test_a_directory_that_others_could_enter_is_closed(path: Path) -> None:
    path.parent.mkdir(mode=0o755)
    async with open_store(path):
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_it_flushes_at_every_commit(path: Path) -> None:
    async with open_store(path) as store:
        (mode,) = store._db.execute("PRAGMA journal_mode").fetchone()
        (synchronous,) = store._db.execute("PRAGMA synchronous").fetchone()
    assert (mode, synchronous) == ("wal", 2)


async def test_calls_that_come_together_share_commits(path: Path) -> None:
    numbers: list[int] = []

    async with open_store(path) as store:

        async def one(n: int) -> None:
            numbers.append(await store.record(LeaseEnd(generation=n)))

        async with trio.open_nursery() as nursery:
            for n in range(500):
                nursery.start_soon(one, n)
        seen = store.statistics()
    assert sorted(numbers) == list(range(1, 501))
    assert (seen.events, seen.failures, seen.waiting) == (500, 0, 0)
    # A task that finds no commit in progress, and those that came meanwhile.
    assert seen.commits <= 5


async def test_more_than_a_batch_and_more_than_may_wait(path: Path) -> None:
    count = audit_limits.AUDIT_WAITING + audit_limits.AUDIT_BATCH + 1
    highest = 0

    async with open_store(path) as store:

        async def one() -> None:
            nonlocal highest
            await store.record(STOP)
            highest = max(highest, store.statistics().waiting)

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one)
        assert store.statistics().events == count
    assert highest < audit_limits.AUDIT_WAITING
    assert [s for s, _ in rows(path)] == list(range(1, count + 1))


class Gate:
    """Holds commits in the worker thread until opened."""

    def __init__(self, store: Store) -> None:
        self.entered = trio.Event()
        self._open = trio.Event()
        self._write = store._write
        store._write = self.write  # type: ignore[method-assign]

    def write(self, events):
        trio.from_thread.run_sync(self.entered.set)
        trio.from_thread.run(self._open.wait)
        return self._write(events)

    def open(self) -> None:
        self._open.set()


async def test_cancelled_before_its_turn_it_is_not_written(path: Path) -> None:
    async with open_store(path) as store:
        gate = Gate(store)
        scope = trio.CancelScope()

        async def cancelled() -> None:
            with scope:
                await store.record(LeaseEnd(reason="cancelled"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.record, STOP)
            await gate.entered.wait()
            nursery.start_soon(cancelled)
            nursery.start_soon(store.record, BrokerStart(software="", pid=1))
            while store.statistics().waiting < 2:
                await trio.lowlevel.checkpoint()
            scope.cancel()
            while store.statistics().waiting > 1:
                await trio.lowlevel.checkpoint()
            gate.open()
    assert [kind for _, kind in rows(path)] == ["broker.stop", "broker.start"]


async def test_cancelling_the_committing_task_loses_no_event(path: Path) -> None:
    async with open_store(path) as store:
        gate = Gate(store)
        scope = trio.CancelScope()

        async def leader() -> None:
            with scope:
                await store.record(STOP)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leader)
            await gate.entered.wait()
            for _ in range(3):
                nursery.start_soon(store.record, LeaseEnd())
            while store.statistics().waiting < 3:
                await trio.lowlevel.checkpoint()
            scope.cancel()
            gate.open()
        assert store.statistics().events == 4
    assert [sequence for sequence, _ in rows(path)] == [1, 2, 3, 4]


async def test_a_turn_that_comes_with_a_cancellation_is_passed_on(path: Path) -> None:
    """Else all later callers wait for one who has gone."""
    async with open_store(path) as store, trio.open_nursery() as nursery:
        store._committing = True  # another one commits
        scope, others = trio.CancelScope(), []

        async def cancelled() -> None:
            with scope:
                await store.record(STOP)

        async def later() -> None:
            others.append(await store.record(STOP))

        nursery.start_soon(cancelled)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(later)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        store._pass_on()  # before the cancelled task runs again
        with trio.fail_after(60):
            await store.record(STOP)
            while not others:
                await trio.testing.wait_all_tasks_blocked()
    assert len(rows(path)) == 2


async def test_a_full_disk_denies_and_room_allows_again(path: Path) -> None:
    big = LeaseEnd(reason="x" * 60_000)
    async with open_store(path) as store:
        await store.record(STOP)
        # SQLite's own limit raises the same SQLITE_FULL as a full disk.
        store._db.execute("PRAGMA max_page_count = 20")

        async def fill() -> None:
            for _ in range(5):
                await store.record(big)

        with pytest.raises(UpstreamError, match="full") as caught:
            await fill()
        assert "is full or read-only" in caught.value.hint
        failed = store.statistics()
        assert failed.failures == 1
        store._db.execute("PRAGMA max_page_count = 100000")
        assert await store.record(big) == failed.events + 1
    sequences = [sequence for sequence, _ in rows(path)]
    assert sequences == list(range(1, len(sequences) + 1))


async def test_each_writer_of_a_failed_commit_gets_the_error(path: Path) -> None:
    async with open_store(path) as store:
        store._db.execute("PRAGMA query_only = 1")
        errors: list[UpstreamError] = []

        async def one() -> None:
            with pytest.raises(UpstreamError) as caught:
                await store.record(STOP)
            errors.append(caught.value)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(one)
        assert len({id(error) for error in errors}) == 20
        store._db.execute("PRAGMA query_only = 0")
        assert await store.record(STOP) == 1


async def test_a_second_writer_is_refused(path: Path) -> None:
    async with open_store(path):
        with pytest.raises(SetupError, match="another broker is using"):
            async with open_store(path):
                pass
    async with open_store(path) as store:
        await store.record(STOP)


async def test_after_the_end_nothing_is_recorded(path: Path) -> None:
    async with open_store(path) as store:
        pass
    with pytest.raises(InternalError, match="closed"):
        await store.record(STOP)


async def test_an_error_inside_reaches_the_caller_as_it_is(path: Path) -> None:
    with pytest.raises(KeyError):
        async with open_store(path):
            raise KeyError("mine")


@pytest.mark.parametrize("version", [4, 99])
async def test_a_newer_database_is_left_alone(path: Path, version: int) -> None:
    async with open_store(path) as store:
        await store.record(STOP)
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {version}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(SetupError, match="newer Vitrail"):
        async with open_store(path):
            pass
    with pytest.raises(SetupError, match="newer Vitrail"), open_log(path):
        pass
    assert path.read_bytes() == before


async def test_a_file_of_another_program_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"my diary\n" * 1000)
    with pytest.raises(SetupError, match="not an audit log"):
        async with open_store(path):
            pass
    assert path.read_bytes() == b"my diary\n" * 1000
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE diary (entry)")
        db.execute("PRAGMA application_id = 1")
    db.close()
    with pytest.raises(SetupError, match="not an audit log"):
        async with open_store(path):
            pass


async def test_a_symlink_in_its_place_is_not_followed(path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(path.parent / "elsewhere")
    with pytest.raises(UpstreamError):
        async with open_store(path):
            pass
    assert not (path.parent / "elsewhere").exists()


async def test_too_large_an_event_fails_alone(path: Path) -> None:
    async with open_store(path) as store:
        with pytest.raises(InternalError):
            await store.record(LeaseEnd(reason="x" * audit_limits.AUDIT_EVENT_BYTES))
        decision = Decision(verdict=EventVerdict.DENY)
        assert await store.record(decision) == 1


def test_every_migration_is_a_script_of_whole_statements() -> None:
    for script in MIGRATIONS:
        assert sqlite3.complete_statement(script)


@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize("how", ["removed", "another"])
async def test_a_log_that_is_gone_takes_nothing(
    path: Path, suffix: str, how: str
) -> None:
    """SQLite would continue, and call events durable that are in no file any more."""
    file = path.with_name(path.name + suffix)
    async with open_store(path) as store:
        assert await store.record(STOP) == 1
        kept = path.with_name("kept")
        file.rename(kept)
        if how == "another":
            file.write_bytes(kept.read_bytes())
        for _ in range(2):
            with pytest.raises(UpstreamError, match="cannot write"):
                await store.record(STOP)
        kept.replace(file)
        assert await store.record(STOP) == 2
    assert rows(path) == [(1, "broker.stop"), (2, "broker.stop")]


async def test_without_room_for_a_thread_it_is_the_disk_s_error(
    path: Path,
) -> None:
    """Who seals and prunes is a task of the broker's own, and awaits that one."""
    async with open_store(path) as store:
        await store.record(STOP)
        with no_threads():
            with pytest.raises(UpstreamError, match="cannot start a thread"):
                await store.checkpoint()
            with pytest.raises(UpstreamError, match="cannot start a thread"):
                await store.prune(before_ns=0, most=None)
        await store.checkpoint()
