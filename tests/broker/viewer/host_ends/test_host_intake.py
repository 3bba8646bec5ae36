"""How fast the streams of a link are taken, and whose turn it is."""

from __future__ import annotations

from contextlib import closing

import trio
from trio.testing import wait_all_tasks_blocked

from broker.core import limits
from broker.core.limits import link as link_limits
from broker.core.names import LeaseId
from broker.viewer.host_ends.host_intake import Intake

A, B = LeaseId("a" * 16), LeaseId("b" * 16)


def lease(number):
    return LeaseId(f"{number:016x}")


async def taken(intake, name, done):
    place = intake.enter(name)
    assert place is not None
    with closing(place):
        await place.turn()
        done.append(name)


async def test_sixty_four_sandboxes_that_open_all_they_have_wait_for_nothing(
    autojump_clock,
):
    """As after a reconnect: a host lets each have so many undecided at one time."""
    intake, done = Intake(), []
    each = link_limits.LINK_STREAMS_AT_ONCE // 64
    began = trio.current_time()
    for _ in range(each // limits.UNDECIDED_PER_SANDBOX):
        async with trio.open_nursery() as nursery:
            for number in range(64 * limits.UNDECIDED_PER_SANDBOX):
                nursery.start_soon(taken, intake, lease(number % 64), done)
    assert len(done) == link_limits.LINK_STREAMS_AT_ONCE
    assert trio.current_time() == began
    assert intake.undecided == 0


async def test_a_flood_of_one_lease_has_the_pace_and_no_more(
    autojump_clock,
):
    intake, done = Intake(), []
    began = trio.current_time()

    async def flood():
        while True:
            await taken(intake, A, done)

    seconds = 10
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for _ in range(link_limits.LINK_UNDECIDED_PER_LEASE):
                nursery.start_soon(flood)
    assert trio.current_time() == began + seconds
    most = (
        link_limits.LINK_STREAMS_AT_ONCE + seconds * link_limits.LINK_STREAMS_PER_SECOND
    )
    assert most * 0.99 <= len(done) <= most + 1


async def test_who_comes_alone_waits_for_one_of_each_other_lease(autojump_clock):
    intake, done = Intake(), []
    floods = 10

    async def flood(name):
        while True:
            await taken(intake, name, done)

    async with trio.open_nursery() as nursery:
        for number in range(floods):
            for _ in range(link_limits.LINK_UNDECIDED_PER_LEASE):
                nursery.start_soon(flood, lease(number))
        while len(done) < link_limits.LINK_STREAMS_AT_ONCE + 100:
            await trio.sleep(0.01)
        for _ in range(20):
            before = len(done)
            await taken(intake, B, done)
            assert done[before:].index(B) <= floods
        nursery.cancel_scope.cancel()
    assert intake.undecided == 0


async def test_those_that_give_up_leave_nothing_to_wait_for(autojump_clock):
    """A thousand that wait behind each other, and are cut, take one turn."""
    intake, done = Intake(), []
    for _ in range(link_limits.LINK_STREAMS_AT_ONCE):
        await taken(intake, A, done)
    for _ in range(100):
        async with trio.open_nursery() as nursery:
            for _ in range(link_limits.LINK_UNDECIDED_PER_LEASE):
                nursery.start_soon(_given_up, intake)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert intake.undecided == 0
    began = trio.current_time()
    await taken(intake, B, done)
    waited = trio.current_time() - began
    assert waited <= 101 / link_limits.LINK_STREAMS_PER_SECOND + 1e-6


async def _given_up(intake):
    place = intake.enter(A)
    try:
        await place.turn()
        await trio.sleep_forever()
    finally:
        place.close()
        place.close()  # also twice


def test_places_are_few_and_each_lease_may_have_one(monkeypatch):
    monkeypatch.setattr(link_limits, "LINK_UNDECIDED_PER_LEASE", 3)
    monkeypatch.setattr(link_limits, "LINK_UNDECIDED", 5)
    intake = Intake()
    first = [intake.enter(A) for _ in range(4)]
    assert first[3] is None, "too many of one lease"
    assert [intake.enter(B) is None for _ in range(3)] == [False, False, True]
    assert intake.undecided == link_limits.LINK_UNDECIDED
    others = [intake.enter(lease(number)) for number in range(10)]
    assert None not in others, "whose lease has none always has a place"
    assert intake.enter(lease(0)) is None
    first[0].close()
    assert intake.enter(A) is None, "all together are too many still"
    for place in others:
        place.close()
    assert intake.enter(A) is not None
