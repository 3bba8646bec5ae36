"""Connections to the viewer that are not from its host, and the answers to them.

Real broker processes; invariant 1 (no lease, no stream) across the link: a
stranger, a replay, a forgery or an old epoch gets no byte of an answer, and
the host that is there notices nothing.
"""

from __future__ import annotations

import os
import secrets
import socket
from contextlib import asynccontextmanager

import pytest
import trio

from broker.cli.link.pairing.pinned import forget, pin
from broker.core.errors import PeerError, RefusedError, UpstreamError
from broker.core.limits import link as limits
from broker.core.names import LeaseId
from broker.core.services import AGENT
from broker.ipc.control.api import RunRequest
from broker.ipc.control.methods import RUN
from broker.ipc.host_rows import (
    LEASE_ENDED,
    START,
    LeaseEnded,
    StartProgress,
    StartSandbox,
)
from broker.net.addresses import UnixEndpoint
from broker.net.endpoints import connect
from broker.net.link.handshake import Fresh, Handshake
from broker.net.link.keys import BrokerIdentity, Peers, PinnedPeer
from broker.net.link.preamble import ANSWER_BYTES, PREAMBLE_BYTES, PreambleVerdict
from broker.net.link.wire_types import HEADER, VERSION, LinkRefusedError, Role
from broker.net.link_service.key_store import LinkStore
from broker.net.link_service.sockets import receive, shake_hands
from tests.kit import hurried_viewer
from tests.kit.eventually import eventually
from tests.kit.link.handling import look
from tests.kit.link.host import announce, close_all, dial, link_host, obey, rest_of, say
from tests.kit.link.two_brokers import two
from tests.kit.wire_bytes import call_bytes
from tests.kit.world import descriptors


@asynccontextmanager
async def viewer_alone(module="broker.programs.viewer"):
    """A viewer process; the test is the host."""
    async with two(start=False, image=False) as t:
        t.viewer.module = module
        await t.viewer.start()
        try:
            yield t
        finally:
            close_all()


@asynccontextmanager
async def linked(module="broker.programs.viewer"):
    """A viewer, an epoch with it, and a lease."""
    async with viewer_alone(module) as t, link_host(t) as epoch:
        yield t, epoch, await announce(epoch)


async def take_answer(sock, offer):
    """The receiver's verdict, as the host's own code reads it."""
    with trio.fail_after(30):
        while offer.verdict is None:
            data = await receive(sock, offer.needed)
            if not data:
                offer.eof()
            offer.feed(data)
    return offer.verdict


async def test_a_stream_is_answered_once_and_its_replay_never():
    async with linked() as (t, epoch, lease):
        offer = epoch.opener.open(AGENT, lease.id)
        first = await say(t.socket, offer.preamble)
        assert await take_answer(first, offer) is PreambleVerdict.TAKEN
        replay = await say(t.socket, offer.preamble)
        assert await rest_of(replay) == b"", "not a byte for a replay"
        event = await t.viewer.wait_event("link.refused")
        assert "replayed" in event["reason"]
        assert event["peer"] == f"uid {os.getuid()}"
        # The first one continues: nothing that a replay does reaches it.
        first.setblocking(False)
        with pytest.raises(BlockingIOError):
            first.recv(1)
        first.close()


async def test_a_forged_preamble():
    """One bit of epoch, number, service, lease or MAC."""
    async with linked() as (t, epoch, lease):
        offsets = (12, 28, 36, 40, 48, PREAMBLE_BYTES - 1)
        for offset in offsets:
            forged = bytearray(epoch.opener.open(AGENT, lease.id).preamble)
            forged[offset] ^= 1
            assert await rest_of(await say(t.socket, bytes(forged))) == b""
            # Numbers are not used up by a forger: the true one is still taken.
            offer = epoch.opener.open(AGENT, lease.id)
            assert await take_answer(await say(t.socket, offer.preamble), offer)

        # After all of them: from the second one on they are held back and counted.
        async def refused():
            found = t.viewer.events("link.refused")
            assert all("preamble" in e["reason"] for e in found), found
            return sum(e.get("count", 1) for e in found) == len(offsets)

        await eventually(refused)


async def test_a_truncated_preamble():
    async with linked() as (t, epoch, lease):
        preamble = epoch.opener.open(AGENT, lease.id).preamble
        for size in (0, 1, 7, 8, 11, 12, 47, 48, PREAMBLE_BYTES - 1):
            sock = await say(t.socket, preamble[:size])
            sock.shutdown(socket.SHUT_WR)
            assert await rest_of(sock) == b""

        async def all_counted():
            found = t.viewer.events("link.refused")
            return sum(e.get("count", 1) for e in found) == 9

        assert await eventually(all_counted)


async def test_a_reflected_preamble():
    """Made by the viewer's own role: no other process has its keys."""
    async with linked() as (t, epoch, lease):
        preamble = bytearray(epoch.opener.open(AGENT, lease.id).preamble)
        preamble[11] = Role.VIEWER
        assert await rest_of(await say(t.socket, bytes(preamble))) == b""
        event = await t.viewer.wait_event("link.refused")
        assert "reflected" in event["reason"]


async def test_an_old_epoch_after_a_reconnect():
    async with viewer_alone() as t:
        async with link_host(t) as old:
            lease = await announce(old)
            unused = old.opener.open(AGENT, lease.id).preamble
            used = old.opener.open(AGENT, lease.id)
            stream = await say(t.socket, used.preamble)
            assert await take_answer(stream, used) is PreambleVerdict.TAKEN
            # The same host again, as after its restart: the old epoch ends.
            async with link_host(t) as new:
                assert new.session.epoch != old.session.epoch
                await look(new)
                with trio.fail_after(30):
                    await old.over.wait()
                assert await rest_of(stream) == b"", "its streams are cut"
                for preamble in (unused, used.preamble):
                    assert await rest_of(await say(t.socket, preamble)) == b""

                async def both():
                    found = [e["reason"] for e in t.viewer.events("link.refused")]
                    return sum("another epoch" in reason for reason in found) == 2

                assert await eventually(both)
                # The old epoch's lease means nothing in the new one.
                offer = new.opener.open(AGENT, lease.id)
                sock = await say(t.socket, offer.preamble)
                assert await take_answer(sock, offer) is PreambleVerdict.NO_LEASE
        down = await t.viewer.wait_event("link.down", epoch=old.digits)
        assert "the same host reconnected" in down["reason"]


async def test_a_lease_that_was_never_announced_or_has_ended():
    async with linked() as (t, epoch, lease):
        stranger = LeaseId(secrets.token_hex(8))
        offer = epoch.opener.open(AGENT, stranger)
        sock = await say(t.socket, offer.preamble)
        assert await take_answer(sock, offer) is PreambleVerdict.NO_LEASE
        live = epoch.opener.open(AGENT, lease.id)
        stream = await say(t.socket, live.preamble)
        assert await take_answer(stream, live) is PreambleVerdict.TAKEN
        await epoch.call(LEASE_ENDED, LeaseEnded(lease.id, "gone"))
        assert await rest_of(stream) == b"", "cut when the end is answered"
        offer = epoch.opener.open(AGENT, lease.id)
        sock = await say(t.socket, offer.preamble)
        assert await take_answer(sock, offer) is PreambleVerdict.NO_LEASE


async def test_a_stranger_that_speaks_the_protocol_well():
    async with linked() as (t, _epoch, _lease):
        mallory = BrokerIdentity.from_seed(b"m" * 32)
        sock = await dial(t.socket)
        with pytest.raises(LinkRefusedError, match="does not know this broker's key"):
            await shake_hands(
                sock,
                role=Role.HOST,
                dials=True,
                identity=mallory,
                peers=LinkStore(t.host.paths).peers(),
            )
        event = await t.viewer.wait_event("link.refused")
        assert "not pinned here" in event["reason"]
        assert (await t.viewer.link()).state == "up"


async def test_a_second_host_does_not_push_the_first_one_out():
    async with linked() as (t, epoch, _lease):
        other = BrokerIdentity.from_seed(b"o" * 32)
        pin(LinkStore(t.viewer.paths), PinnedPeer("other", Role.HOST, other.public))
        async with link_host(t, identity=other) as second:
            with trio.fail_after(30):
                await second.over.wait()
        event = await t.viewer.wait_event("link.refused")
        assert (
            "cannot connect the host other: desk is already connected"
            in event["reason"]
        )
        await look(epoch)


async def test_another_version_is_said_plainly_at_both_ends():
    async with viewer_alone() as t:
        hello = HEADER.pack(b"VTRL-CTL", VERSION + 1, 1, Role.HOST) + bytes(72)
        answer = await rest_of(await say(t.socket, hello))
        assert HEADER.unpack_from(answer)[1] == VERSION, "it says its own"
        link = await t.viewer.link()
        assert (
            f"version {VERSION + 1} of the link, but this one uses version {VERSION}"
            in link.problem
        )
        assert "same release" in link.cure


async def test_a_message_of_the_wrong_role_ends_the_link():
    """A host that sends what only a viewer may."""
    async with viewer_alone() as t:
        async with link_host(t) as epoch:
            epoch._carrier.put(call_bytes(9, START, StartSandbox("a")))
            with trio.fail_after(30):
                await epoch.over.wait()
        down = await t.viewer.wait_event("link.down")
        assert "may not call 'Start' of the viewer" in down["reason"]


async def test_a_host_that_floods_with_progress_is_shown_so_much_of_it():
    wanted = limits.LINK_PROGRESS_LINES

    async def flood(epoch, row, request, exchange):
        if row is not START:
            return await obey(epoch, row, request, exchange)
        for number in range(wanted + 1):
            await exchange.emit(StartProgress(f"line {number}"))
        await shown.wait()
        raise RefusedError("enough")

    told, shown = [], trio.Event()

    async def take(item):
        if item.progress is not None and item.progress.detail.startswith("line"):
            told.append(item.progress.detail)
            if len(told) == wanted:
                shown.set()

    async with viewer_alone() as t, link_host(t, handle=flood):
        async with t.viewer.client() as client:
            with pytest.raises(RefusedError, match="enough"):
                await client.call(RUN, RunRequest(record="app", argv=["true"]), take)
        assert len(told) == wanted


async def test_a_host_that_forgets_its_leases_leaves_none():
    """The end of an epoch ends every lease of it, said or not."""
    async with viewer_alone() as t:
        async with link_host(t) as epoch:
            for _ in range(8):
                await announce(epoch)
            assert len((await t.viewer.status()).sandboxes) == 8
        await t.viewer.wait_event("link.down")
        status = await t.viewer.status()
        assert (status.sandboxes, status.leases) == ([], [])


async def test_a_lease_of_a_record_that_the_viewer_has_not():
    async with linked() as (_t, epoch, _lease):
        with pytest.raises(RefusedError, match="no valid record 'other'"):
            await announce(epoch, "other")


async def test_nothing_is_asked_of_a_host_that_is_not_there():
    async with viewer_alone(hurried_viewer.__name__) as t:
        with pytest.raises(UpstreamError, match="no host is connected"):
            await t.viewer.run("app")


@pytest.mark.slow
async def test_a_stall_in_the_handshake_ends_at_its_deadline():
    async with linked(hurried_viewer.__name__) as (t, epoch, _lease):
        began = trio.current_time()
        silent = await dial(t.socket)
        magic = await say(t.socket, b"VTRL-CTL")
        half = await say(t.socket, HEADER.pack(b"VTRL-STR", VERSION, 1, Role.HOST))
        for sock in (silent, magic, half):
            assert await rest_of(sock, hurried_viewer.HANDSHAKE_SECONDS + 60) == b""
        assert trio.current_time() - began >= hurried_viewer.HANDSHAKE_SECONDS - 1
        event = (await t.viewer.wait_event("link.refused"))["reason"]
        assert event == "the peer did not authenticate within 3 s"
        await look(epoch)


async def test_ten_thousand_half_open_handshakes():
    """Few are held, the rest is closed at once; the link does not notice."""
    async with linked() as (t, epoch, lease):
        pid = await t.viewer.broker_pid()
        before = descriptors(pid)
        tasks = (await t.viewer.status()).tasks
        held = []
        for _ in range(10_000):
            sock = await dial(t.socket)
            held.append(sock)
            if len(held) > 200:
                held.pop(0).close()
        during = descriptors(pid)
        most = before["socket"] + limits.LINK_UNAUTHENTICATED_PER_PEER + 8
        assert during["socket"] <= most
        await look(epoch)
        for sock in held:
            sock.close()

        # And then the door is open again.
        async def opened():
            offer = epoch.opener.open(AGENT, lease.id)
            try:
                sock = await say(t.socket, offer.preamble)
                return await take_answer(sock, offer) is PreambleVerdict.TAKEN
            except (PeerError, UpstreamError):
                return False

        await eventually(opened)
        refused = t.viewer.events("link.refused")
        assert len(refused) < 500, "counted, not each written"

        async def settled():
            return (await t.viewer.status()).tasks <= tasks + 4

        await eventually(settled)


async def test_an_honest_host_comes_in_past_those_that_stand_there():
    """Silent ones, half a HELLO, a stranger's, and the host's own said again."""
    async with viewer_alone() as t:
        store = LinkStore(t.host.paths)
        stranger = BrokerIdentity.from_seed(b"s" * 32)
        words = [
            b"",
            b"VTRL-CTL",
            *(hello(i)[:60] for i in (store.identity(), stranger)),
        ]
        for number in range(4 * limits.LINK_UNAUTHENTICATED_PER_PEER):
            await say(t.socket, words[number % len(words)])
        for _ in range(2 * limits.LINK_UNAUTHENTICATED_PER_PEER):
            await say(t.socket, hello(store.identity()))
        async with link_host(t) as epoch:
            lease = await announce(epoch)
            offer = epoch.opener.open(AGENT, lease.id)
            sock = await say(t.socket, offer.preamble)
            assert await take_answer(sock, offer) is PreambleVerdict.TAKEN

        # And while more of them come, as fast as they can.
        async with trio.open_nursery() as nursery:
            came = await nursery.start(flood, t.socket)
            for _ in range(5):
                before = came[0]
                with trio.fail_after(60):
                    await linked_again(t)
                    while came[0] == before:
                        await trio.sleep(0)
            nursery.cancel_scope.cancel()
        said = [e["reason"] for e in t.viewer.events("link.refused")]
        assert any("too many unfinished connections" in reason for reason in said)


def hello(identity):
    """The first message of a client that shows this key, and holds another one."""
    fake = BrokerIdentity(BrokerIdentity.from_seed(b"m" * 32)._private)
    fake.public = identity.public
    return Handshake(
        role=Role.HOST,
        dials=True,
        identity=fake,
        peers=Peers(),
        fresh=Fresh.make(secrets.token_bytes),
    ).start()


async def flood(path, task_status=trio.TASK_STATUS_IGNORED):
    """Connect for ever, and say nothing; the last ones stay open."""
    held, came = [], [0]
    try:
        while True:
            held.append(await connect(UnixEndpoint(path)))
            came[0] += 1
            if len(held) > 200:
                held.pop(0).close()
            if came[0] == 200:
                task_status.started(came)
    finally:
        for sock in held:
            sock.close()


async def linked_again(t):
    """An honest host, which tries again as its broker does."""
    through = False
    while not through:
        try:
            async with link_host(t) as epoch:
                await look(epoch)
                through = True
        except* (LinkRefusedError, UpstreamError):
            await trio.sleep(0)


async def test_an_answer_is_never_the_squatters():
    """The opener's side: a wrong answer, and no payload was sent."""
    async with linked() as (_t, epoch, lease):
        offer = epoch.opener.open(AGENT, lease.id)
        with pytest.raises(LinkRefusedError, match="not the paired broker"):
            offer.feed(bytes([PreambleVerdict.TAKEN]) + bytes(ANSWER_BYTES - 1))


async def test_a_broker_that_is_pinned_or_forgotten_counts_at_once():
    """A file that is read only after a change must be read after each change."""
    async with viewer_alone() as t:
        store = LinkStore(t.viewer.paths)
        other = BrokerIdentity.from_seed(b"o" * 32)
        for _ in range(3):
            with pytest.raises(LinkRefusedError, match="does not know"):
                async with link_host(t, identity=other):
                    pass
            pin(store, PinnedPeer("other", Role.HOST, other.public))
            async with link_host(t, identity=other) as epoch:
                await look(epoch)
            forget(store, "other")
