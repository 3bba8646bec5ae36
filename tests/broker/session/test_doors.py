"""The doors of a lease: what comes while it ends, and when nothing can be said."""

from __future__ import annotations

import itertools
import sys

import trio
from trio.testing import wait_all_tasks_blocked

from broker.core import limits
from broker.core.services import DISPLAY
from broker.session.doors import Doors
from tests.kit.roles import (
    LEASE,
    SilentViewer,
    full_disk,
    journal,
    own_claim,
    own_connector,
    pair,
)


def doors(log, viewer):
    numbers = itertools.count(1)
    return Doors(
        lease=LEASE,
        claim=own_claim(),
        alive=lambda: frozenset({own_connector().pid}),
        viewer=viewer,
        log=log,
        next_stream=lambda: next(numbers),
    )


async def test_connections_that_wait_when_the_lease_ends(tmp_path):
    """The shared AF_VSOCK listener offers them from a nursery of its own.

    Each one that is turned away makes room for the next, while the doors
    close: a guest must not be able to break the listener of all guests.
    """
    async with journal(tmp_path) as log:
        for _ in range(20):  # trio wakes tasks in a random order
            viewer = SilentViewer()
            mine = doors(log, viewer)
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
                    conn.settimeout(5)
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
    """A mistake of ours in every stream."""

    async def stream_opened(self, opening, conn, *, task_status):
        with conn:
            task_status.started()
            self.offered += 1
            self.more.set()
            self.more = trio.Event()
            raise ZeroDivisionError


async def test_a_mistake_while_standard_error_is_on_a_full_disk(tmp_path, monkeypatch):
    """It ends its own stream; that nobody can read of it ends nothing more."""
    async with journal(tmp_path) as log:
        viewer = MistakenViewer()
        mine = doors(log, viewer)
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
