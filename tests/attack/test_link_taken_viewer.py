"""A viewer that was taken over, against its host: it holds the right key.

It may start and end what the host's records name.  It must not keep the host
from ending a machine, nor from finding another viewer.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import trio

from broker.authority.audit.journal import Journal
from broker.core.errors import RefusedError, UpstreamError
from broker.core.lease import Opening
from broker.core.limits import link as limits
from broker.core.names import SandboxName
from broker.core.services import DISPLAY
from broker.host.viewer_link import RemoteViewer
from broker.ipc.host_rows import (
    LEASE_BEGUN,
    LEASE_ENDED,
    START,
    STOP,
    StartSandbox,
    StopSandbox,
)
from broker.ipc.host_viewer import StreamRefusedError
from tests.kit.eventually import eventually
from tests.kit.link.ends import Ends
from tests.kit.link.host import obey
from tests.kit.link.roles import PaperMachine, host_role, journal
from tests.kit.wayland.compositor import short_directory

A = SandboxName("a")


async def never(unanswered, epoch, row, request, exchange):
    """Answer every call but those of a row, to which nothing is ever said."""
    if row is unanswered:
        await trio.sleep_forever()
    return await obey(epoch, row, request, exchange)


class Launcher:
    """Opens paper machines and keeps them."""

    def __init__(self):
        self.machines = []

    async def __call__(self, sandbox, record, closed, progress, changes=None):
        await trio.lowlevel.checkpoint()
        self.machines.append(PaperMachine())
        return self.machines[-1]


@asynccontextmanager
async def a_host(tmp_path):
    """A host's end that dials the test, its role, and its machines."""
    with short_directory() as base:
        ends, launcher = Ends(base), Launcher()
        listener = await ends.listener()
        try:
            async with journal(tmp_path / "link") as log:
                remote = ends.host_end(log, lambda: host)
                async with (
                    host_role(tmp_path, launcher, viewer=remote) as host,
                    trio.open_nursery() as nursery,
                ):
                    await nursery.start(remote.run)
                    with trio.fail_after(60):
                        yield ends, listener, host, launcher, nursery
                    nursery.cancel_scope.cancel()
        finally:
            listener.close()


@pytest.fixture
def hurried(monkeypatch, tmp_path):
    monkeypatch.setattr(limits, "LINK_ANSWER_SECONDS", 0.5)
    (tmp_path / "link").mkdir()


@pytest.mark.usefixtures("hurried")
async def test_one_that_never_says_that_a_lease_has_ended(tmp_path):
    """The machine ends all the same, and with it all that the host kept for it."""
    async with a_host(tmp_path) as (ends, listener, host, launcher, nursery):
        begun = trio.Event()

        async def handle(epoch, row, request, exchange):
            if row is LEASE_BEGUN:
                begun.set()
            return await never(LEASE_ENDED, epoch, row, request, exchange)

        epoch = await ends.accepted(listener, nursery, handle)
        lease = await host.start(A)
        # The host records that the link is up before it announces anything: a lease
        # that begins and ends meanwhile is never announced, and so never withdrawn.
        await begun.wait()
        await host.stop(lease.id, grace=0, reason="asked")
        assert launcher.machines[0].closed.is_set()
        assert host.active_leases() == []
        await epoch.over.wait()
        assert "this broker owed it an answer" in epoch.reason
        # The link is made again, and with it a lease.
        await ends.accepted(listener, nursery, obey)
        assert await host.start(A) != lease


@pytest.mark.usefixtures("hurried")
async def test_a_link_that_cannot_be_recorded_is_closed(tmp_path, monkeypatch):
    """The viewer would hold a connection that nothing reads, and wait for leases."""
    real, failures = RemoteViewer._note_up, []

    async def once(self, epoch, peer):
        if not failures:
            failures.append(epoch)

            async def full(*_):
                raise UpstreamError("no space left on device")

            monkeypatch.setattr(self._log, "require", full)
        try:
            await real(self, epoch, peer)
        finally:
            monkeypatch.undo()

    async with a_host(tmp_path) as (ends, listener, _host, _launcher, nursery):
        monkeypatch.setattr(RemoteViewer, "_note_up", once)
        epoch = await ends.accepted(listener, nursery, obey)
        await epoch.over.wait()
        # And it dials again.
        await ends.accepted(listener, nursery, obey)
        assert len(failures) == 1


@pytest.mark.usefixtures("hurried")
async def test_one_that_never_says_that_a_lease_has_begun(tmp_path):
    async with a_host(tmp_path) as (ends, listener, host, launcher, nursery):
        await ends.accepted(listener, nursery, partial(never, LEASE_BEGUN))
        lease = await host.start(A)  # it is announced to the next one
        heard = trio.Event()

        async def hear(epoch, row, request, exchange):
            if row is LEASE_BEGUN and request.lease == lease.id:
                heard.set()
            return await obey(epoch, row, request, exchange)

        await ends.accepted(listener, nursery, hear)
        await heard.wait()
        await host.stop(lease.id, grace=0, reason="asked")
        assert launcher.machines[0].closed.is_set()


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("goes", ["lost", "bye"])
async def test_a_viewer_that_goes_while_its_machine_is_announced(
    tmp_path, monkeypatch, goes
):
    """The epoch ends at once, and not when an answer comes that cannot come."""
    monkeypatch.setattr(limits, "LINK_ANSWER_SECONDS", 1e6)
    async with a_host(tmp_path) as (ends, listener, host, launcher, nursery):
        asked = trio.Event()

        async def announced(epoch, row, request, exchange):
            if row is LEASE_BEGUN:
                asked.set()
                await trio.sleep_forever()
            return await obey(epoch, row, request, exchange)

        epoch = await ends.accepted(listener, nursery, announced)

        async def ask():
            with pytest.raises(UpstreamError):
                await epoch.call(START, StartSandbox(A))

        async with trio.open_nursery() as asking:
            asking.start_soon(ask)
            await asked.wait()
            if goes == "lost":
                epoch._said_bye = True  # so it says no goodbye
            epoch.end("gone")
        # Its broker dials again, and the sandboxes that it has started are over or announced.
        await ends.accepted(listener, nursery, obey)
        for active_lease in host.active_leases():
            await host.stop(active_lease.lease.id, grace=0, reason="asked")
        assert all(machine.closed.is_set() for machine in launcher.machines)


@pytest.mark.usefixtures("hurried")
async def test_a_long_grace_of_another_machine_is_cut_short(tmp_path):
    async with a_host(tmp_path) as (ends, listener, host, launcher, nursery):
        epoch = await ends.accepted(listener, nursery, obey)
        lease, machine = await host.start(A), launcher.machines[0]
        async with trio.open_nursery() as asking:
            stop = StopSandbox(lease.id, 1e9, "a test")
            asking.start_soon(epoch.call, STOP, stop)
            await machine.asked.wait()
            assert machine.graces == [limits.LINK_GRACE_SECONDS]
            machine.over.set()


@pytest.mark.usefixtures("hurried")
async def test_a_stream_that_comes_while_the_link_is_made_is_no_first_one(
    tmp_path, monkeypatch
):
    """A sandbox that tries without a pause: the viewer is there before the count is."""
    real, tries, tried = RemoteViewer._record_unseen, [], trio.Event()

    async def then_try(self, lease=None):
        await real(self, lease)
        if lease is None:
            opening = SimpleNamespace(lease=lease_of[0], service=DISPLAY, direct=False)
            with pytest.raises(RefusedError) as caught:
                self._epoch_for(opening)
            tries.append(caught.value)
            tried.set()

    async with a_host(tmp_path) as (ends, listener, host, _launcher, nursery):
        lease_of = [await host.start(A)]
        monkeypatch.setattr(RemoteViewer, "_record_unseen", then_try)
        await ends.accepted(listener, nursery, partial(never, LEASE_BEGUN))
        await tried.wait()
        assert "has not accepted the lease" in str(tries[0])
        assert not isinstance(tries[0], StreamRefusedError)


@pytest.mark.usefixtures("hurried")
async def test_a_sandbox_that_ends_while_refused_streams_are_recorded(
    tmp_path, monkeypatch
):
    """Two that try while the viewer is away, of which one ends as it comes back.

    The host's process must not end with it: its log takes a moment for each count.
    """
    async with a_host(tmp_path) as (ends, listener, host, _launcher, nursery):
        b = SandboxName("b")
        leases = [await host.start(name) for name in (A, b)]
        ended_now, recorded = [], []

        async def record(self, lease=None):
            if lease is None:
                for each in leases:
                    opening = Opening(each, DISPLAY, 1, "test")
                    self._without_viewer(opening)
                    self._without_viewer(opening)
            await real(self, lease)
            if lease is None:
                recorded.append(self._unseen)

        real_refused = Journal.refused

        async def slowly(self, event):
            await real_refused(self, event)
            if event.count and not ended_now:
                ended_now.append(event.sandbox)
                other = next(one for one in leases if one.sandbox != event.sandbox)
                await host.stop(other.id, grace=0, reason="it ends itself")

        real = RemoteViewer._record_unseen
        monkeypatch.setattr(RemoteViewer, "_record_unseen", record)
        monkeypatch.setattr(Journal, "refused", slowly)
        epoch = await ends.accepted(listener, nursery, obey)
        while not recorded:
            await trio.sleep(0.01)
        assert recorded == [{}]
        assert ended_now == ["a"]
        assert not epoch.over.is_set()


async def test_silent_viewer_is_not_dialled_for_each_stream(tmp_path):
    """Each dial that a stopped machine does not answer takes a descriptor of its VMM."""
    (tmp_path / "link").mkdir()
    async with a_host(tmp_path) as (ends, listener, host, _launcher, nursery):
        lease = await host.start(A)
        await ends.accepted(listener, nursery, obey)
        remote = host._viewer

        async def announced():
            epoch = remote.state.epoch
            return epoch is not None and epoch.leases.usable(lease.id)

        await eventually(announced)
        remote.state.epoch.is_silent = True
        opening = Opening(lease, DISPLAY, 1, "test")
        for recorded in (False, True):
            with pytest.raises(StreamRefusedError, match="has sent nothing") as caught:
                remote._epoch_for(opening)
            assert caught.value.recorded is recorded
