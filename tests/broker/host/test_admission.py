"""Admission by a lease: connections during its end, and ends that cannot be reported."""

from __future__ import annotations

import os
import sys
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from broker.core import limits
from broker.core.errors import RefusedError, UpstreamError
from broker.core.limits import audit as audit_limits
from broker.core.services import DISPLAY
from broker.host.admission import accept
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.net.hangup import given
from broker.net.peers.identity import Connector, HybridClaim
from tests.kit.link.roles import (
    LEASE,
    SilentViewer,
    full_disk,
    journal,
    own_doors,
    pair,
)


async def test_connections_that_wait_when_the_lease_ends(tmp_path):
    """The shared AF_VSOCK listener offers them from a separate nursery.

    Each one that is turned away makes room for the next, while the doors
    close: a guest must not be able to break the listener of all guests.
    """
    async with journal(tmp_path) as log:
        for _ in range(20):  # trio wakes tasks in a random order
            viewer = SilentViewer()
            mine = own_doors(log, viewer)
            with pair_of_many(limits.UNDECIDED_PER_SANDBOX + 8) as (ours, theirs):
                async with trio.open_nursery() as shared, trio.open_nursery() as lease:
                    lease.start_soon(mine.serve, {})
                    await wait_all_tasks_blocked()
                    for conn in theirs:
                        shared.start_soon(mine.offer, DISPLAY, conn)
                    await viewer.wait_offered(limits.UNDECIDED_PER_SANDBOX)
                    await wait_all_tasks_blocked()
                    assert mine.waiting == 8
                    lease.cancel_scope.cancel()
                assert mine.streams == {}
                assert mine.undecided.value == limits.UNDECIDED_PER_SANDBOX
                for conn in ours:
                    conn.settimeout(30)
                    assert conn.recv(1) == b"", "hung up on"


class pair_of_many:  # noqa: N801
    """Connections: our ends, and the ends to give away."""

    def __init__(self, number):
        self.pairs = [pair() for _ in range(number)]

    def __enter__(self):
        return [a for a, _ in self.pairs], [b for _, b in self.pairs]

    def __exit__(self, *_):
        for a, b in self.pairs:
            a.close()
            b.close()


class MistakenViewer(SilentViewer):
    """Our mistake in every stream."""

    async def stream_opened(self, opening, conn, *, task_status):
        with conn:
            task_status.started()
            self.offered += 1
            self.more.set()
            self.more = trio.Event()
            raise ZeroDivisionError


async def test_a_mistake_while_standard_error_is_on_a_full_disk(tmp_path, monkeypatch):
    """It ends its stream; an error report that fails ends nothing more."""
    async with journal(tmp_path) as log:
        viewer = MistakenViewer()
        mine = own_doors(log, viewer)
        with pair_of_many(2) as (ours, theirs), full_disk() as full:
            monkeypatch.setattr(sys, "stderr", full)
            async with trio.open_nursery() as lease:
                lease.start_soon(mine.serve, {})
                await wait_all_tasks_blocked()
                for number, conn in enumerate(theirs, start=1):
                    await mine.offer(DISPLAY, conn)
                    await viewer.wait_offered(number)
                await wait_all_tasks_blocked()
                lease.cancel_scope.cancel()
            monkeypatch.undo()
            assert viewer.offered == 2
            assert mine.streams == {}
            assert [conn.recv(1) for conn in ours] == [b"", b""]


# -- limits --------------------------------------------------------------------------


class WillingViewer(SilentViewer):
    """Takes every stream; holds it until the test ends it."""

    def __init__(self):
        super().__init__()
        self.ends = []

    async def stream_opened(self, opening, conn, *, task_status):
        with given(conn):
            task_status.started()
            self.offered += 1
            self.more.set()
            self.more = trio.Event()
            self.ends.append(trio.Event())
            await self.ends[-1].wait()


def refusals(tmp_path):
    """Reasons of refused streams, each as often as it was counted."""
    with open_log(tmp_path / "audit.sqlite") as log:
        found = [r.fields() for r in log.find(Filters(kinds=("stream.refused",)))]
    return [e["reason"] for e in found for _ in range(e.get("count", 1))]


@asynccontextmanager
async def open_doors(tmp_path, viewer, **changes):
    """Doors that are open for a test; gives them."""
    async with journal(tmp_path) as log, trio.open_nursery() as lease:
        mine = own_doors(log, viewer)
        for name, value in changes.items():
            setattr(mine, name, value)
        lease.start_soon(mine.serve, {})
        await wait_all_tasks_blocked()
        yield mine
        lease.cancel_scope.cancel()
    assert mine.streams == {}
    assert mine.undecided.value == limits.UNDECIDED_PER_SANDBOX


async def decided(mine):
    """Wait until nothing is undecided: a refusal is on disk then."""
    while mine.undecided.value < limits.UNDECIDED_PER_SANDBOX:
        await wait_all_tasks_blocked(0.01)


async def heard(conn):
    """What a far end reads next."""
    with trio.fail_after(30):
        await trio.lowlevel.wait_readable(conn)
    return conn.recv(1)


async def test_a_used_up_share_of_the_log_closes_the_door(tmp_path):
    """Before a viewer hears of it: on the host, too, it would be three events."""
    viewer = WillingViewer()
    async with open_doors(tmp_path, viewer) as mine:
        used = 2 * audit_limits.AUDIT_SHARE_BYTES
        mine.log._shares.charge(LEASE.sandbox, used, trio.current_time())
        with pair_of_many(1) as (ours, theirs):
            await mine.offer(DISPLAY, theirs[0])
            assert await heard(ours[0]) == b""
            await decided(mine)
    assert viewer.offered == 0
    assert ["share of the audit log" in reason for reason in refusals(tmp_path)] == [
        True
    ]


@pytest.mark.parametrize("over", [0, 1])
async def test_so_many_are_undecided_and_the_next_one_waits(tmp_path, over):
    viewer = SilentViewer()
    async with open_doors(tmp_path, viewer) as mine, trio.open_nursery() as shared:
        with pair_of_many(limits.UNDECIDED_PER_SANDBOX + over) as (_, theirs):
            for conn in theirs:
                shared.start_soon(mine.offer, DISPLAY, conn)
            await viewer.wait_offered(limits.UNDECIDED_PER_SANDBOX)
            await wait_all_tasks_blocked()
            assert (viewer.offered, mine.waiting) == (
                limits.UNDECIDED_PER_SANDBOX,
                over,
            )
            shared.cancel_scope.cancel()


async def test_so_many_streams_are_carried_and_the_next_one_is_refused(tmp_path):
    viewer = WillingViewer()
    most = limits.STREAMS_PER_SANDBOX
    async with open_doors(tmp_path, viewer) as mine:
        with pair_of_many(most + 2) as (ours, theirs):
            for conn in theirs[:most]:
                await mine.offer(DISPLAY, conn)
            await viewer.wait_offered(most)
            assert len(mine.streams) == most
            await mine.offer(DISPLAY, theirs[most])
            assert await heard(ours[most]) == b"", "hung up on"
            assert viewer.offered == most, "the viewer never heard of it"
            # One ends, and there is a place.
            viewer.ends[0].set()
            assert await heard(ours[0]) == b""
            await mine.offer(DISPLAY, theirs[most + 1])
            await viewer.wait_offered(most + 1)
            await wait_all_tasks_blocked()
    assert refusals(tmp_path) == [f"the sandbox already has {most} open streams"]


async def test_a_burst_is_looked_at_at_once_and_the_next_one_waits(
    tmp_path, autojump_clock
):
    viewer = WillingViewer()
    async with open_doors(tmp_path, viewer) as mine:
        began = trio.current_time()
        with pair_of_many(limits.STREAMS_BURST + 2) as (_, theirs):
            for number, conn in enumerate(theirs, start=1):
                await mine.offer(DISPLAY, conn)
                await viewer.wait_offered(number)
                viewer.ends[-1].set()
                await wait_all_tasks_blocked()
                late = max(0, number - limits.STREAMS_BURST)
                took = trio.current_time() - began
                assert took == pytest.approx(late / limits.STREAMS_PER_SECOND)


class LateViewer(SilentViewer):
    """Decides after so many seconds."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    async def stream_opened(self, opening, conn, *, task_status):
        with given(conn):
            await trio.sleep(self.seconds)
            task_status.started()
            self.offered += 1
            self.more.set()
            await trio.sleep_forever()


@pytest.mark.parametrize("late", [False, True])
async def test_a_decision_has_a_deadline(tmp_path, autojump_clock, late):
    viewer = LateViewer(limits.ADMIT_SECONDS + (0.001 if late else -0.001))
    async with open_doors(tmp_path, viewer) as mine:
        with pair_of_many(1) as (ours, theirs):
            await mine.offer(DISPLAY, theirs[0])
            if late:
                await trio.lowlevel.wait_readable(ours[0])
            else:
                await viewer.wait_offered(1)
                await wait_all_tasks_blocked()
            await decided(mine)
            assert viewer.offered == len(mine.streams) == 1 - late
            if late:
                assert ours[0].recv(1) == b""
    assert refusals(tmp_path) == ["the decision timed out"] * late


# -- who is let in ---------------------------------------------------------------------


async def test_a_process_that_the_claim_does_not_name(tmp_path):
    viewer = WillingViewer()
    other = HybridClaim("/nowhere/vm.vsock", frozenset({Connector(1, 1)}))
    async with open_doors(tmp_path, viewer, claim=other) as mine:
        with pair_of_many(1) as (ours, theirs):
            ours[0].sendall(b"let me in")
            await mine.offer(DISPLAY, theirs[0])
            assert await heard(ours[0]) == b"", "an end, not a reset"
    assert viewer.offered == 0
    (reason,) = refusals(tmp_path)
    assert f"process {os.getpid()}" in reason
    assert "is not the VMM of this sandbox" in reason


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RefusedError("denied: default"), "denied: default"),
        (UpstreamError("the log is full"), "the log is full"),
        (OSError(24, "Too many open files"), "Too many open files"),
    ],
)
async def test_what_the_viewer_does_not_take_is_refused_with_its_reason(
    tmp_path, error, says
):
    class No(SilentViewer):
        async def stream_opened(self, opening, conn, *, task_status):
            with given(conn):
                raise error

    async with open_doors(tmp_path, No()) as mine:
        with pair_of_many(1) as (ours, theirs):
            await mine.offer(DISPLAY, theirs[0])
            assert await heard(ours[0]) == b""
    (reason,) = refusals(tmp_path)
    assert says in reason


async def test_the_end_of_a_lease_cuts_every_stream(tmp_path):
    viewer = WillingViewer()
    with pair_of_many(3) as (ours, theirs):
        async with open_doors(tmp_path, viewer) as mine:
            for conn in theirs:
                await mine.offer(DISPLAY, conn)
            await viewer.wait_offered(3)
        assert [conn.recv(1) for conn in ours] == [b""] * 3
        late, given_away = pair()
        with late:
            await mine.offer(DISPLAY, given_away)
            assert late.recv(1) == b"", "who comes after the end gets an end"
        assert mine.undecided.value == limits.UNDECIDED_PER_SANDBOX


# -- accepting -------------------------------------------------------------------------


async def test_a_process_without_descriptors_goes_on_listening(autojump_clock):
    ours, theirs = pair()
    answers = [UpstreamError("Too many open files")] * 3 + [theirs]

    class Full:
        async def accept(self):
            await trio.lowlevel.checkpoint()
            answer = answers.pop(0)
            if isinstance(answer, UpstreamError):
                raise answer
            return answer

    began = trio.current_time()
    with ours:
        assert await accept(Full()) is theirs
        theirs.close()
    assert trio.current_time() - began == pytest.approx(0.3), "not as fast as it can"
