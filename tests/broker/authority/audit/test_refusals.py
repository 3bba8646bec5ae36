"""Equal refusals of one second become one event."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from broker.authority.audit.refusals import Counter, Refusals
from broker.authority.audit.store import open_store
from broker.core.limits import audit as audit_limits
from broker.ipc.audit import schema
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.ipc.audit.schema import LeaseRefused, StreamRefused
from tests.kit.eventually import eventually

COLD = StreamRefused(peer="cid 42", service="vitrail.Display", reason="no lease")


def test_refusals_over_a_link_are_equal_in_all_but_their_numbers() -> None:
    counter = Counter()
    assert counter.take(msgspec.structs.replace(COLD, link="1@ab"), 10.0) != []
    for n in range(2, 9):
        again = msgspec.structs.replace(COLD, stream=n, link=f"{n}@ab")
        assert counter.take(again, 10.5) == []


def test_the_first_is_an_event_at_once_and_the_rest_of_its_second_one_more() -> None:
    counter = Counter()
    assert counter.take(COLD, 10.0) == [COLD]
    for n in range(1, 100):
        assert counter.take(msgspec.structs.replace(COLD, stream=n), 10.5) == []
    assert counter.deadline() == 11.0
    assert counter.due(10.999) == []
    (counted,) = counter.due(11.0)
    assert (counted.count, counted.reason) == (99, "no lease")


def test_a_flood_makes_ever_fewer_events_and_its_end_forgets_it() -> None:
    counter = Counter()
    events: list[schema.Event] = []
    for step in range(100_000):
        events += counter.take(COLD, step / 10_000)
    events += counter.flush()
    assert sum(event.count for event in events) == 100_000
    # One at once, then counts after 1, 3 and 7 seconds, and at the end.
    assert len(events) == 5
    assert counter.due(math.inf) == []
    assert counter.deadline() == math.inf


def test_different_refusals_are_events_of_their_own() -> None:
    counter = Counter()
    other = msgspec.structs.replace(COLD, reason="port is not its own")
    assert counter.take(COLD, 1.0) == [COLD]
    assert counter.take(other, 1.0) == [other]


def test_one_kind_more_than_the_limit_shares_a_count() -> None:
    counter = Counter()
    for n in range(audit_limits.AUDIT_REFUSAL_KEYS_PER_SANDBOX):
        event = msgspec.structs.replace(COLD, reason=f"port {n}")
        assert counter.take(event, 1.0) == [event]
    (first,) = counter.take(msgspec.structs.replace(COLD, reason="one more"), 1.0)
    assert (first.peer, first.reason) == ("cid 42", "further refusals of many kinds")
    for n in range(5000):
        assert counter.take(msgspec.structs.replace(COLD, reason=f"x{n}"), 1.0) == []
    assert len(counter._windows) == audit_limits.AUDIT_REFUSAL_KEYS_PER_SANDBOX + 1
    (lease,) = counter.take(LeaseRefused(peer="other"), 1.0)
    assert lease.kind == "lease.refused"


def test_one_peer_more_than_the_limit_shares_a_count_without_a_name() -> None:
    counter = Counter()
    for n in range(audit_limits.AUDIT_REFUSAL_OWNERS):
        event = msgspec.structs.replace(COLD, peer=f"cid {n + 3}")
        assert counter.take(event, 1.0) == [event]
    (first,) = counter.take(msgspec.structs.replace(COLD, peer="one more"), 1.0)
    assert (first.peer, first.reason) == ("", "further refusals of many kinds")
    for n in range(5000):
        assert counter.take(msgspec.structs.replace(COLD, peer=f"x{n}"), 1.0) == []
    assert len(counter._windows) == audit_limits.AUDIT_REFUSAL_OWNERS + 1
    # Those that have been quiet for long make room.
    counter.due(2000.0)
    event = msgspec.structs.replace(COLD, peer="one more")
    assert counter.take(event, 4000.0)[-1] == event


@pytest.mark.parametrize("more", [0, 1, 1 << 62])
def test_a_claimed_count_stays_a_number(more: int) -> None:
    """A taken-over worker may say that it was refused any number of times."""
    counter = Counter()
    counter.take(COLD, 1.0)
    claimed = msgspec.structs.replace(COLD, count=audit_limits.AUDIT_COUNT + more)
    for _ in range(3):
        counter.take(claimed, 1.0)
    (told,) = counter.due(2.0)
    assert told.count == audit_limits.AUDIT_COUNT


async def test_a_refusal_that_cannot_be_written_ends_no_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Our mistake, where a broker's own task would die of it."""
    async with open_store(tmp_path / "audit.sqlite") as store:
        refusals = Refusals(store)
        large = StreamRefused(reason="x" * audit_limits.AUDIT_EVENT_BYTES)
        await refusals.refused(large)
        await refusals.refused(COLD)
        assert store.statistics().events == 1
    assert "the event stream.refused has" in capsys.readouterr().err


def test_what_the_store_did_not_take_comes_out_later() -> None:
    counter = Counter()
    counter.take(COLD, 1.0)
    counter.hold(msgspec.structs.replace(COLD, count=7), 1.5)
    (again,) = counter.due(2.0)
    assert again.count == 7
    fresh = Counter()
    fresh.hold(COLD, 1.0)
    assert [e.count for e in fresh.due(2.0)] == [1]


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 2)), max_size=60))
def test_nothing_is_lost_and_nothing_counted_twice(
    steps: list[tuple[int, float]],
) -> None:
    counter = Counter()
    now = 0.0
    out: dict[str, int] = {}
    expected: dict[str, int] = {}

    def note(events: list[schema.Event]) -> None:
        for event in events:
            out[event.peer] = out.get(event.peer, 0) + event.count

    for who, wait in steps:
        now += wait
        peer = f"cid {who}"
        expected[peer] = expected.get(peer, 0) + 1
        note(counter.take(msgspec.structs.replace(COLD, peer=peer), now))
    note(counter.flush())
    assert out == expected


async def test_the_count_is_written_when_the_second_is_over(tmp_path: Path) -> None:
    path = tmp_path / "audit.sqlite"
    async with open_store(path) as store:
        refusals = Refusals(store)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refusals.run)
            for _ in range(1000):
                await refusals.refused(COLD)
            await eventually(lambda: store.statistics().events >= 2)
            for _ in range(3):
                await refusals.refused(COLD)
            nursery.cancel_scope.cancel()
    with open_log(path) as log:
        counts = [found.fields().get("count", 1) for found in log.find(Filters())]
    assert counts[0] == 1
    assert sum(counts) == 1003
    # A slow machine takes more than a second for them.
    assert 3 <= len(counts) <= 8


async def test_a_hundred_thousand_refusals_are_a_few_rows(tmp_path):
    """Equal ones, and ones that all differ: counted, and none is lost."""
    path = tmp_path / "audit.sqlite"
    async with open_store(path) as store:
        refusals = Refusals(store)
        for number in range(50_000):
            await refusals.refused(
                schema.StreamRefused(peer="cid 9", reason="no lease")
            )
            await refusals.refused(
                schema.StreamRefused(peer=f"cid {number}", reason="no lease")
            )
        await refusals._record(refusals._counter.flush())
        most = audit_limits.AUDIT_REFUSAL_OWNERS + 1000
        assert store.size < most
    with open_log(path) as log:
        events = [found.fields() for found in log.find(Filters())]
    assert sum(int(event.get("count", 1)) for event in events) == 100_000
    assert path.stat().st_size < 4 << 20
