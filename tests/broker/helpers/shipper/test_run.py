"""How a log is cut into batches, and what stops it."""

from __future__ import annotations

import queue
import random
import sqlite3
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from broker.authority.audit.store import open_store
from broker.core.errors import IntegrityError, SetupError, UpstreamError
from broker.core.limits import audit as audit_limits
from broker.helpers.shipper.cursor import Cursor, load_cursor
from broker.helpers.shipper.run import Shipper
from broker.helpers.shipper.terms import Batch, Target, record_id
from broker.ipc.audit import schema
from tests.kit.audit.shipping import bodies, filled, place, record


class Receiver(Target):
    """Keeps received events; fails as often as it is set to."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.failures = 0
        self.says: tuple[int, str] | None = None

    def position(self, log: bytes) -> tuple[int, str] | None:
        return self.says

    def send(self, batch: Batch) -> None:
        if self.failures:
            self.failures -= 1
            raise UpstreamError("not now")
        self.batches.append(batch)

    def close(self) -> None:
        pass

    def interrupt(self) -> None:
        pass

    @property
    def sequences(self) -> list[int]:
        return [item.sequence for batch in self.batches for item in batch.items]


def shipper(directory: Path, receiver: Receiver) -> Shipper:
    (directory / "ship").mkdir(exist_ok=True)
    return Shipper(place(directory), "r", "a list", lambda: receiver)


async def test_batches_have_a_largest_number(tmp_path: Path) -> None:
    await filled(tmp_path, audit_limits.SHIP_BATCH_EVENTS + 1)
    receiver = Receiver()
    await shipper(tmp_path, receiver).once()
    assert [len(b.items) for b in receiver.batches] == [
        audit_limits.SHIP_BATCH_EVENTS,
        1,
    ]


async def test_batches_have_a_largest_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(tmp_path / "audit.sqlite") as store:
        for _ in range(3):
            await store.record(schema.LeaseEnd(reason="x" * 1000))
    each = [len(body) for body in bodies(tmp_path)]
    for size, expected in (
        (sum(each[:2]), [2, 1]),
        (sum(each[:2]) - 1, [1, 1, 1]),
        (1, [1, 1, 1]),  # one goes, however large it is
    ):
        monkeypatch.setattr(audit_limits, "SHIP_BATCH_BYTES", size)
        receiver = Receiver()
        await shipper(tmp_path, receiver).once()
        assert [len(b.items) for b in receiver.batches] == expected
        (tmp_path / "ship/r.json").unlink()


@pytest.mark.parametrize("extra", [0, 1])
async def test_checkpoints_go_with_the_events_they_are_of(
    tmp_path: Path, extra: int
) -> None:
    count = audit_limits.SHIP_BATCH_NOTES + extra - 1  # and the first key's
    async with open_store(tmp_path / "audit.sqlite") as store:
        for number in range(count):
            await record(store, number + 1, 1)
            await store.checkpoint()
    receiver = Receiver()
    assert await shipper(tmp_path, receiver).once() == count
    sent = [sealed for batch in receiver.batches for sealed in batch.notes]
    assert [(s.size, s.kind) for s in sent] == [
        (0, "key 0"),
        *((n, "kept") for n in range(1, count + 1)),
    ]
    assert len(receiver.batches[0].notes) == audit_limits.SHIP_BATCH_NOTES
    assert len(receiver.batches) == 1 + extra
    # A second one of the same size, when nothing else has happened.
    async with open_store(tmp_path / "audit.sqlite") as store:
        await store.evolve()
    assert await shipper(tmp_path, receiver).once() == 0
    assert receiver.batches[-1].items == []
    assert {s.kind for s in receiver.batches[-1].notes} >= {"key 1"}
    again = len(receiver.batches)
    await shipper(tmp_path, receiver).once()
    assert len(receiver.batches) == again


async def test_a_failure_moves_nothing_and_is_remembered(tmp_path: Path) -> None:
    await filled(tmp_path, 5)
    receiver = Receiver()
    receiver.failures = 1
    with pytest.raises(UpstreamError):
        await shipper(tmp_path, receiver).once()
    cursor = load_cursor(tmp_path / "ship", "r")
    assert (cursor.sequence, cursor.problem) == (0, "not now")
    assert cursor.since > 0
    assert await shipper(tmp_path, receiver).once() == 5
    assert load_cursor(tmp_path / "ship", "r").problem == ""


@pytest.mark.slow
async def test_following_tries_again_and_ends_with_everything(
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(random, "uniform", lambda _, longest: longest)
    receiver = Receiver()
    receiver.failures = 7
    stop = trio.Event()
    async with (
        open_store(tmp_path / "audit.sqlite") as store,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(shipper(tmp_path, receiver).follow, stop)
        await record(store, 1, 10)
        while not receiver.batches:
            await trio.sleep(1)
        # 1 + 2 + 4 + ... seconds lie between the attempts.
        assert trio.current_time() >= 127
        await record(store, 11, 10)
        stop.set()
    assert receiver.sequences == [*range(1, 21)]


async def test_pauses_are_drawn_from_nothing_to_ten_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fleet that has lost its store in one second does not come back in one."""
    drawn = []
    monkeypatch.setattr("random.uniform", lambda *ends: drawn.append(ends) or 0.0)
    await filled(tmp_path, 5)
    receiver = Receiver()
    receiver.failures = 12
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shipper(tmp_path, receiver).follow, trio.Event())
        while not receiver.batches:
            await trio.sleep(0)
        nursery.cancel_scope.cancel()
    pauses = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]
    assert drawn == [(0, pause) for pause in pauses]


class Collecting(Receiver):
    """A fleet's store; says when it is let go of."""

    waits = beats = True

    def __init__(self) -> None:
        super().__init__()
        self._rests: queue.Queue[int] = queue.Queue()

    def close(self) -> None:
        self._rests.put(len(self.batches))

    async def rests(self) -> int:
        """The number of batches when its connection was closed."""
        return await trio.to_thread.run_sync(partial(self._rests.get, timeout=60))


async def test_events_wait_to_be_one_batch_without_a_connection(
    tmp_path: Path, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda _, most: most)
    monkeypatch.setattr(audit_limits, "SHIP_BATCH_EVENTS", 10)
    receiver = Collecting()
    (tmp_path / "ship").mkdir()
    held = replace(place(tmp_path), batch_seconds=30.0)
    quiet = schema.LeaseEnd(sandbox="web", lease="one")
    denial = schema.Decision(sandbox="web", verdict=schema.EventVerdict.DENY)

    async def passes(seconds: float) -> None:
        mock_clock.jump(seconds)
        await trio.testing.wait_all_tasks_blocked()

    async def recorded(*events: schema.Event) -> None:
        # The store has another clock, which continues.
        mock_clock.rate = 1.0
        async with open_store(tmp_path / "audit.sqlite") as store:
            for event in events:
                await store.record(event)
        mock_clock.rate = 0.0

    await recorded(quiet)
    made = Shipper(held, "r", "a list", lambda: receiver)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.follow, trio.Event())
        assert await receiver.rests() == 1
        await recorded(quiet, quiet)
        await passes(1)
        await passes(29)
        assert len(receiver.batches) == 1, "they wait for others"
        await passes(2)
        assert await receiver.rests() == 2
        # One that a person should see goes at once, and so do many.
        await recorded(denial)
        await passes(1)
        assert await receiver.rests() == 3
        await recorded(*[quiet] * 10)
        await passes(1)
        assert await receiver.rests() == 4
        # Nothing for an hour: a sign of life, also where it is not taken at once.
        receiver.failures = 1
        await passes(3601)
        while not load_cursor(tmp_path / "ship", "r").problem:
            await trio.sleep(0)
        await passes(1)
        assert await receiver.rests() == 5
        await recorded(denial)
        await passes(1)
        assert await receiver.rests() == 6
        nursery.cancel_scope.cancel()
    assert [len(batch.items) for batch in receiver.batches] == [1, 2, 1, 10, 0, 1]


class Hostile(Receiver):
    """Gives an answer that none of our receivers would give."""

    def position(self, log: bytes) -> tuple[int, str] | None:
        return int("\x1b[2Jno number"), ""


async def test_an_unexpected_answer_affects_that_receiver_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await filled(tmp_path, 20)
    hostile, good = shipper(tmp_path, Hostile()), Receiver()
    with pytest.raises(UpstreamError, match=r"unexpected error \(ValueError\)"):
        await hostile.once()
    assert "unexpected error" in load_cursor(tmp_path / "ship", "r").problem
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hostile.follow, stop)
        await Shipper(place(tmp_path), "good", "a list", lambda: good).once()
        stop.set()
    assert good.sequences == [*range(1, 21)]


class Slow(Receiver):
    """Takes nothing until it is interrupted."""

    def __init__(self) -> None:
        super().__init__()
        self.interrupted = threading.Event()

    def send(self, batch: Batch) -> None:
        del batch
        assert self.interrupted.wait(60)
        raise UpstreamError("the connection broke")

    def interrupt(self) -> None:
        self.interrupted.set()


async def test_a_step_has_a_deadline_whatever_the_receiver_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_limits, "SHIP_STEP_SECONDS", 0.2)
    await filled(tmp_path, 20)
    with pytest.raises(UpstreamError, match="did not accept a batch within"):
        await shipper(tmp_path, Slow()).once()
    cursor = load_cursor(tmp_path / "ship", "r")
    assert cursor.sequence == 0
    assert "within" in cursor.problem


async def test_a_receiver_that_lost_some_gets_them_again(tmp_path: Path) -> None:
    await filled(tmp_path, 20)
    receiver = Receiver()
    await shipper(tmp_path, receiver).once()
    receiver.says = (12, "")
    assert await shipper(tmp_path, receiver).once() == 8
    assert receiver.sequences[20:] == [*range(13, 21)]


@pytest.mark.parametrize("says", [(21, ""), (20, "ab" * 32)])
async def test_a_receiver_that_knows_better_stops_it(
    tmp_path: Path, says: tuple[int, str]
) -> None:
    await filled(tmp_path, 20)
    receiver = Receiver()
    receiver.says = says
    with pytest.raises(IntegrityError):
        await shipper(tmp_path, receiver).once()
    assert receiver.batches == []


async def test_a_hole_in_the_log_is_told_and_numbers_stay(tmp_path: Path) -> None:
    await filled(tmp_path, 30)
    with sqlite3.connect(tmp_path / "audit.sqlite") as db:
        db.execute("DELETE FROM event WHERE sequence BETWEEN 11 AND 15")
    db.close()
    receiver = Receiver()
    assert await shipper(tmp_path, receiver).once() == 25
    assert [(b.first, b.last, b.missing) for b in receiver.batches] == [
        (1, 10, 0),
        (16, 30, 5),
    ]
    assert load_cursor(tmp_path / "ship", "r").missing == 5


async def test_nothing_to_ship_and_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no audit log yet"):
        await shipper(tmp_path, Receiver()).once()
    await filled(tmp_path, 0)
    assert await shipper(tmp_path, Receiver()).once() == 0


async def test_a_late_receiver_gets_the_remaining_events(tmp_path: Path) -> None:
    await filled(tmp_path, 10)
    with sqlite3.connect(tmp_path / "audit.sqlite") as db:
        db.execute("DELETE FROM event WHERE sequence < 5")
    db.close()
    receiver = Receiver()
    assert await shipper(tmp_path, receiver).once() == 6
    assert receiver.batches[0].missing == 4


async def test_a_log_without_a_name(tmp_path: Path) -> None:
    await filled(tmp_path, 10)
    with sqlite3.connect(tmp_path / "audit.sqlite") as db:
        db.execute("DELETE FROM checkpoint")
    db.close()
    with pytest.raises(SetupError, match="no checkpoint"):
        await shipper(tmp_path, Receiver()).once()
    old = Path(__file__).parents[3] / "corpus" / "audit" / "v1.sqlite"
    (tmp_path / "audit.sqlite").write_bytes(old.read_bytes())
    with pytest.raises(SetupError, match="no checkpoint"):
        await shipper(tmp_path, Receiver()).once()


def test_a_record_is_called_the_same_whenever_it_is_sent() -> None:
    assert record_id(b"a" * 32, 1) == record_id(b"a" * 32, 1)
    assert len({record_id(log, n) for log in (b"a", b"b") for n in (1, 2)}) == 4


def test_a_cursor_of_a_later_version_can_be_read() -> None:
    import msgspec

    body = b'{"name":"a","sequence":3,"moons":2}'
    assert msgspec.json.decode(body, type=Cursor).sequence == 3
