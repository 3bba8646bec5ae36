"""A host that was taken over, against its viewer: it holds the right key.

Its sandboxes are its own anyway.  It must not make the viewer work, write or
wait without end; and an honest one with many sandboxes notices no limit.
"""

from __future__ import annotations

import socket
from collections import Counter
from contextlib import asynccontextmanager

import trio

from broker.core import limits
from broker.core.limits import link as link_limits
from broker.core.limits import sound as pulse_limits
from broker.core.services import AGENT, AUDIO, DISPLAY
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.ipc.host_rows import LEASE_ENDED, LeaseEnded
from broker.net.link.link_rows import CUT, Cut
from broker.net.link.preamble import PreambleVerdict
from broker.net.link_service.sockets import dial, receive, send_all
from tests.kit.eventually import eventually
from tests.kit.link.ends import a_viewer
from tests.kit.link.handling import look
from tests.kit.link.host import announce, close_all, link_host, obey, rest_of, say
from tests.kit.link.two_brokers import two
from tests.kit.world import record


class Opened:
    """Streams that the test has opened."""

    def __init__(self, ends):
        self._ends = ends
        self._socks = []

    async def open(self, epoch, lease, service=AGENT):
        """Send a preamble, and wait for no answer."""
        offer = epoch.opener.open(service, lease.id)
        sock = await dial(self._ends.config)
        self._socks.append(sock)
        await send_all(sock, offer.preamble)
        return sock, offer

    def close(self):
        for sock in self._socks:
            sock.close()


async def test_streams_have_a_pace_that_no_reconnect_renews(tmp_path, monkeypatch):
    monkeypatch.setattr(link_limits, "LINK_STREAMS_AT_ONCE", 4)
    monkeypatch.setattr(link_limits, "LINK_STREAMS_PER_SECOND", 1e-4)
    async with a_viewer(tmp_path) as (ends, viewer, remote, nursery):
        opened = Opened(ends)
        epoch = await ends.dialled(nursery, obey)
        first, second = [await announce(epoch) for _ in range(2)]
        socks = [(await opened.open(epoch, first))[0] for _ in range(8)]
        await viewer.wait_offered(4)

        async def all_there():
            return len(epoch_of(remote).streams) == 8

        await eventually(all_there)
        # That one waits is no reason for it to outlive its lease.
        await epoch.call(LEASE_ENDED, LeaseEnded(first.id, "gone"))
        for sock in socks:
            assert await rest_of(sock) == b""
        assert viewer.offered == [first.id] * 4, "no more than the pace allows"

        # A new connection finds the remaining places: one of the old ones had its turn.
        again = await ends.dialled(nursery, obey)
        await epoch.over.wait()
        lease = await announce(again)
        await opened.open(again, lease)

        async def it_waits():
            return len(epoch_of(remote).streams) == 1

        await eventually(it_waits)
        await look(again)  # and would long have been offered
        assert len(viewer.offered) == 4
        assert second.id not in viewer.offered
        opened.close()


def epoch_of(remote):
    assert remote.state.epoch is not None
    return remote.state.epoch


async def test_undecided_ones_are_few_and_the_rest_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(link_limits, "LINK_UNDECIDED_PER_LEASE", 3)
    async with a_viewer(tmp_path) as (ends, viewer, _, nursery):
        opened = Opened(ends)
        epoch = await ends.dialled(nursery, obey)
        first, second = [await announce(epoch) for _ in range(2)]
        for _ in range(3):
            await opened.open(epoch, first)
        await viewer.wait_offered(3)
        for _ in range(5):
            sock, offer = await opened.open(epoch, first)
            while offer.verdict is None:
                offer.feed(await receive(sock, offer.needed))
            assert offer.verdict is PreambleVerdict.BUSY
        await opened.open(epoch, second)
        await viewer.wait_offered(4)
        assert viewer.offered == [first.id] * 3 + [second.id]
        # One that is cut before its decision leaves its place to the next one.
        await epoch.call(CUT, Cut("host", 1, "a test"))
        await opened.open(epoch, first)
        await viewer.wait_offered(5)
        opened.close()
    with open_log(tmp_path / "audit.sqlite") as log:
        rows = log.find(Filters(kinds=("link.refused",)))
        reasons = {row.fields()["reason"] for row in rows}
    assert reasons == {
        f"too many streams wait for a decision, including those of {first.sandbox}"
    }


async def test_a_decided_stream_does_not_count_as_undecided(tmp_path, monkeypatch):
    monkeypatch.setattr(link_limits, "LINK_UNDECIDED_PER_LEASE", 3)
    async with a_viewer(tmp_path) as (ends, viewer, remote, nursery):
        viewer.takes = True
        opened = Opened(ends)
        epoch = await ends.dialled(nursery, obey)
        lease = await announce(epoch)
        for _ in range(9):
            sock, offer = await opened.open(epoch, lease)
            while offer.verdict is None:
                offer.feed(await receive(sock, offer.needed))
            assert offer.verdict is PreambleVerdict.TAKEN
        assert len(epoch_of(remote).streams) == 9
        opened.close()


async def test_losses_are_notified_once_each_and_at_a_pace(tmp_path):
    """Windows of two sandboxes end; a host that comes and goes fills no screen."""
    async with a_viewer(tmp_path) as (ends, viewer, remote, nursery):
        opened = Opened(ends)
        for number in range(1, 9):
            epoch = await ends.dialled(nursery, obey)
            for lease in [await announce(epoch) for _ in range(2)]:
                await opened.open(epoch, lease, DISPLAY)
                await opened.open(epoch, lease, AUDIO)
            await viewer.wait_offered(4 * number)
            epoch.end("test over")
            await epoch.over.wait()

            async def ended():
                return remote.state.epoch is None

            await eventually(ended)
        opened.close()
    assert len(ends.notices) == 5
    title, text = ends.notices[0]
    assert title == "The link to desk was lost"
    assert text.startswith("2 programs with windows ended with the link, in ")
    assert "test over" in text


async def test_end_without_windows_is_not_notified(tmp_path):
    async with a_viewer(tmp_path) as (ends, viewer, remote, nursery):
        opened = Opened(ends)
        epoch = await ends.dialled(nursery, obey)
        await opened.open(epoch, await announce(epoch))
        await viewer.wait_offered(1)
        epoch.end("test over")
        await epoch.over.wait()
        opened.close()
    assert not ends.notices
    assert not remote.state.loss


async def test_epochs_have_a_pace(tmp_path, monkeypatch):
    """A host that connects again without end waits in the door's room."""
    monkeypatch.setattr(link_limits, "LINK_EPOCHS_AT_ONCE", 3)
    monkeypatch.setattr(link_limits, "LINK_EPOCHS_PER_SECOND", 1e-4)
    monkeypatch.setattr(link_limits, "LINK_HANDSHAKE_SECONDS", 2.0)
    async with a_viewer(tmp_path) as (ends, _, remote, nursery):
        for _ in range(3):
            epoch = await ends.dialled(nursery, obey)
            await look(epoch)
        late = await ends.dialled(nursery, obey)
        await late.over.wait()
        assert "without Bye" in late.reason
        assert remote.state.refused == 1
        await look(epoch)
    with open_log(tmp_path / "audit.sqlite") as log:
        (row,) = log.find(Filters(kinds=("link.refused",)))
    assert "reconnects too often" in row.fields()["reason"]


async def test_requests_above_the_rate_are_delayed_in_the_next_epoch(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(link_limits, "LINK_REQUESTS_AT_ONCE", 5)
    monkeypatch.setattr(link_limits, "LINK_REQUESTS_PER_SECOND", 1e-4)
    monkeypatch.setattr(link_limits, "LINK_HANDSHAKE_SECONDS", 2.0)
    async with a_viewer(tmp_path) as (ends, _, _, nursery):
        epoch = await ends.dialled(nursery, obey)
        for _ in range(6):
            await look(epoch)
        late = await ends.dialled(nursery, obey)
        await late.over.wait()
        assert "without Bye" in late.reason


async def test_another_host_uses_up_no_turn_of_the_one_that_is(tmp_path, monkeypatch):
    """It is paired as well, and may be the host when no other one is connected."""
    monkeypatch.setattr(link_limits, "LINK_EPOCHS_AT_ONCE", 2)
    monkeypatch.setattr(link_limits, "LINK_EPOCHS_PER_SECOND", 1e-4)
    async with a_viewer(tmp_path) as (ends, _, remote, nursery):
        other = ends.another_host("other")
        first = await ends.dialled(nursery, obey)
        await look(first)
        for number in range(5):
            late = await ends.dialled(nursery, obey, other)
            await late.over.wait()
            assert remote.state.refused == number + 1
        again = await ends.dialled(nursery, obey)
        await look(again)
        await first.over.wait()


async def test_of_two_hosts_that_come_at_once_one_is(tmp_path):
    async with a_viewer(tmp_path) as (ends, _, remote, nursery):
        async with remote._next:  # both are through the handshake, and wait here
            first = await ends.dialled(nursery, obey)
            late = await ends.dialled(nursery, obey, ends.another_host("other"))
        await late.over.wait()
        await look(first)
        assert epoch_of(remote).name == "desk"
        assert remote.state.refused == 1


# -- against a whole viewer ------------------------------------------------------


_CONNECTING = trio.Semaphore(link_limits.LINK_OPENING)


@asynccontextmanager
async def linked(text):
    """A viewer process with that record, and the test as its host."""
    async with two({"app": text}, start=False, image=False) as t:
        await t.viewer.start()
        try:
            async with link_host(t) as epoch:
                yield t, epoch
        finally:
            close_all()


async def ask_for(t, epoch, lease, service):
    """Ask for a stream, and return the verdict."""
    offer = epoch.opener.open(service, lease.id)
    # Few connect side by side, as the host's own code holds it.
    async with _CONNECTING:
        sock = await say(t.socket, offer.preamble)
    with sock:
        while offer.verdict is None:
            data = await receive(sock, offer.needed)
            if not data:
                offer.eof()
            offer.feed(data)
    return offer.verdict


async def test_an_honest_host_with_many_sandboxes_notices_nothing():
    """All that its doors let it have undecided at once, of each sandbox."""
    many = 16
    found = Counter()
    async with linked(record()) as (t, epoch), trio.open_nursery() as nursery:
        leases = [await announce(epoch) for _ in range(many)]

        async def one(lease):
            found[await ask_for(t, epoch, lease, AUDIO)] += 1

        with trio.fail_after(120):
            async with trio.open_nursery() as asking:
                for _ in range(limits.UNDECIDED_PER_SANDBOX):
                    for lease in leases:
                        asking.start_soon(one, lease)
        nursery.cancel_scope.cancel()
    # Each was decided: the record gives it no sound.
    assert found == {PreambleVerdict.DENIED: many * limits.UNDECIDED_PER_SANDBOX}


async def test_one_that_opens_without_end_is_refused_and_hurts_itself_only():
    """Its streams wait, each up to ten seconds, for a sound server that accepts none.

    A sandbox has PULSE_CONNECTIONS of them, raw ones as well, and PULSE_WAITING wait;
    each other one is refused: "denied" beyond that number, "busy" where too many are
    undecided (the test above fills those places: here decisions keep them free).
    """
    text = record(top='audio = "raw"\n')
    refused = {PreambleVerdict.BUSY, PreambleVerdict.DENIED}
    async with linked(text) as (t, epoch):
        server = t.viewer.base / "run/pulse"
        server.mkdir()
        with socket.socket(socket.AF_UNIX) as stuck, socket.socket(socket.AF_UNIX) as q:
            stuck.bind(str(server / "native"))
            stuck.listen(0)
            q.connect(str(server / "native"))  # its queue is full
            flooding, other = [await announce(epoch) for _ in range(2)]
            put, got = trio.open_memory_channel(0)
            number = link_limits.LINK_UNDECIDED_PER_LEASE + 64
            beyond = number - pulse_limits.PULSE_CONNECTIONS

            async def one():
                await put.send(await ask_for(t, epoch, flooding, AUDIO))

            async with trio.open_nursery() as nursery:
                for _ in range(number):
                    nursery.start_soon(one)
                with trio.fail_after(60):
                    first = Counter([await got.receive() for _ in range(beyond)])
                assert set(first) <= {*refused, PreambleVerdict.TAKEN}, first
                most = pulse_limits.PULSE_WAITING + pulse_limits.PULSE_CONNECTIONS
                assert first[PreambleVerdict.TAKEN] <= most
                # The link is up, and a sandbox that has opened nothing is served.
                assert await ask_for(t, epoch, other, AGENT) is PreambleVerdict.TAKEN
                nursery.cancel_scope.cancel()
            event = await t.viewer.wait_event("stream.refused")
            assert event["lease"] == flooding.id
            most = pulse_limits.PULSE_WAITING
            reason = f"{most} sound connections of the sandbox already wait"
            assert event["reason"] == reason
