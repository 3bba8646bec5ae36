"""The shared AF_VSOCK listeners: whose connection it is, and what others get."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from broker.core import limits
from broker.core.errors import SetupError
from broker.core.services import AGENT, DISPLAY
from broker.host import vsock_listeners
from broker.host.vsock_listeners import PortTakenError, serve_vsock
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.net.peers import credentials
from broker.net.peers.identity import VsockClaim, VsockFacts, take_cid
from tests.kit.eventually import eventually
from tests.kit.link.roles import journal, pair

NETNS = credentials.network_namespace()


class PaperListener:
    """Accepts what the test gives it."""

    def __init__(self):
        self.give, self._taken = trio.open_memory_channel(1000)
        self.closed = False

    async def accept_batch(self, most):
        assert most == limits.VSOCK_BATCH
        batch = [await self._taken.receive()]
        while len(batch) < most and self._taken.statistics().current_buffer_used:
            batch.append(self._taken.receive_nowait())
        return batch

    def close(self):
        self.closed = True
        self.give.close()
        self._taken.close()


class PaperDoors:
    """The services of one lease, which accept offered connections or let them wait."""

    def __init__(self):
        self.offered = []
        self.waiting = 0

    async def offer(self, service, conn):
        with conn:
            self.offered.append(service)


class Stand:
    """Everything around ``serve_vsock``; a socket's CID is what the test says."""

    def __init__(self, log, path):
        self.log = log
        self.path = path
        self.listeners = {AGENT: PaperListener(), DISPLAY: PaperListener()}
        self.doors = {}
        self.cids = {}
        self.ours = []

    def facts(self, conn):
        cid = self.cids[conn]
        if isinstance(cid, OSError):
            raise cid
        return VsockFacts(NETNS, take_cid(cid))

    def doors_of(self, claim):
        assert claim.netns == NETNS
        return self.doors.get(claim)

    def lease(self, cid):
        return self.doors.setdefault(VsockClaim(NETNS, cid), PaperDoors())

    async def connect(self, cid, service=DISPLAY):
        ours, theirs = pair()
        ours.settimeout(30)
        self.ours.append(ours)
        self.cids[theirs] = cid
        await self.listeners[service].give.send(theirs)
        await wait_all_tasks_blocked(0.01)
        return ours

    async def refused(self, number):
        """The refusals, once there are so many; they are written in a thread."""

        async def look():
            await wait_all_tasks_blocked()
            found = self._refused()
            return found if len(found) >= number else None

        return await eventually(look) if number else self._refused()

    def _refused(self):
        with open_log(self.path) as log:
            rows = log.find(Filters(kinds=("stream.refused",)))
            return [(r.fields().get("peer"), r.fields()["reason"]) for r in rows]


@pytest.fixture
def stand(tmp_path, monkeypatch):
    @asynccontextmanager
    async def made():
        async with journal(tmp_path) as log, trio.open_nursery() as nursery:
            mine = Stand(log, tmp_path / "audit.sqlite")
            monkeypatch.setattr(vsock_listeners.credentials, "vsock_facts", mine.facts)
            nursery.start_soon(
                serve_vsock, tuple(mine.listeners.items()), mine.doors_of, log
            )
            yield mine
            nursery.cancel_scope.cancel()
        for conn in mine.ours:
            conn.close()
        assert all(listener.closed for listener in mine.listeners.values())

    return made


async def test_a_connection_is_its_cid_s(stand):
    async with stand() as s:
        mine, other = s.lease(42), s.lease(43)
        await s.connect(42, DISPLAY)
        await s.connect(43, AGENT)
        await s.connect(42, AGENT)
        assert mine.offered == [DISPLAY, AGENT]
        assert other.offered == [AGENT]
        assert await s.refused(0) == []


async def test_a_cid_without_a_lease_gets_not_a_byte(stand):
    async with stand() as s:
        s.lease(42)
        conn = await s.connect(41)
        assert conn.recv(1) == b"", "an end, not a reset"
        assert await s.refused(1) == [("cid 41", "no lease has this CID")]


@pytest.mark.parametrize("cid", [0, 1, 2, 0xFFFFFFFF])
async def test_a_cid_that_is_never_a_peer(stand, cid):
    """Not even when a lease names it, which cannot be."""
    async with stand() as s:
        doors = s.lease(cid)
        assert (await s.connect(cid)).recv(1) == b""
        assert doors.offered == []
        ((_, reason),) = await s.refused(1)
        assert reason == f"CID {cid} is reserved or invalid"


async def test_a_connection_that_has_gone_already(stand):
    async with stand() as s:
        doors = s.lease(42)
        gone = OSError(107, "Transport endpoint is not connected")
        assert (await s.connect(gone)).recv(1) == b""
        await s.connect(42)
        assert doors.offered == [DISPLAY], "the listener goes on"


@pytest.mark.parametrize("over", [0, 1])
async def test_as_many_wait_as_a_backlog_holds(stand, over):
    async with stand() as s:
        doors = s.lease(42)
        doors.waiting = limits.BACKLOG - 1 + over
        conn = await s.connect(42)
        assert conn.recv(1) == b""
        assert len(doors.offered) == 1 - over
        reason = "too many connections are waiting for a decision"
        assert await s.refused(over) == [("cid 42", reason)] * over


async def test_one_guest_s_flood_is_its_own(stand):
    async with stand() as s:
        s.lease(42).waiting = limits.BACKLOG
        honest = s.lease(43)
        for _ in range(5):
            await s.connect(42)
        await s.connect(43)
        assert honest.offered == [DISPLAY]
        most = limits.REFUSALS_LOGGED_PER_SECOND
        assert len(await s.refused(most)) == most


@pytest.mark.parametrize("flood", ["a stranger's", "a machine's that may have no more"])
async def test_a_flood_of_refused_ones_is_one_record_of_a_batch(
    stand, monkeypatch, flood
):
    """Each cost a task and a record, so that a flood outran the broker's accept."""
    async with stand() as s:
        honest = s.lease(43)
        if flood != "a stranger's":
            s.lease(41).waiting = limits.BACKLOG
        told = []
        refused = s.log.refused

        async def tell(event):
            told.append((event.peer, event.count))
            await refused(event)

        monkeypatch.setattr(s.log, "refused", tell)
        conns = [pair() for _ in range(101)]
        give = s.listeners[DISPLAY].give
        for ours, theirs in conns:
            ours.settimeout(30)
            s.ours.append(ours)
            s.cids[theirs] = 41 if len(s.cids) < 100 else 43
            give.send_nowait(theirs)
        await wait_all_tasks_blocked()
        assert honest.offered == [DISPLAY]
        assert [ours.recv(1) for ours, _ in conns] == [b""] * 101
        assert sum(count for _, count in told) == 100
        assert len(told) == 1, "one for all of them"


async def test_a_port_that_is_taken_leaves_no_listener(monkeypatch):
    opened = []

    async def open_listener(endpoint, *, backlog):
        if opened:
            raise SetupError("in use") from OSError(98, "Address already in use")
        opened.append(PaperListener())
        return opened[0]

    monkeypatch.setattr(vsock_listeners, "open_listener", open_listener)
    monkeypatch.setattr(vsock_listeners, "LOW_PORTS", {})
    with pytest.raises(PortTakenError, match="another program"):
        await vsock_listeners.open_vsock_listeners()
    assert opened[0].closed
