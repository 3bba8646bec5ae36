"""A viewer that was taken over keeps a sandbox that has stopped: it gets nothing for it.

On one machine the host records the end of a lease, whatever the viewer says of it.
"""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager

import pytest
import trio

from broker.authority.audit.event_log import of
from broker.authority.channel.event_rights import EventRights
from broker.authority.channel.served_client import ClientChannel
from broker.core.errors import PeerError, sole
from broker.core.limits import authority as authority_limits
from broker.ipc import authority as m
from broker.ipc.audit import log_rows, schema
from broker.wire.call_messages import ErrorMessage
from broker.wire.frame_carrier import Frames
from broker.wire.row import Empty, ProcessKind
from tests.attack.test_forged_authority_messages import ALLOW, ask, began, record
from tests.kit.authority import REPORT, RawClient, SentMessage, call, hostile
from tests.kit.rulebook import VAULT, WORK


class HostOf:
    """The host beside a hostile viewer, at the same authority."""

    def __init__(self, made, sock):
        link = Frames(
            sock,
            receive_bytes=authority_limits.AUTHORITY_REQUEST_BYTES,
            send_bytes=authority_limits.AUTHORITY_ANSWER_BYTES,
            waiting=authority_limits.AUTHORITY_WAITING_BYTES,
        )
        self.rights = EventRights("host", linked=False)
        self.channel = ClientChannel(
            link,
            ProcessKind.HOST,
            raise_question=lambda _token: None,
            authority=made.authority,
            log=made.log,
            rights=self.rights,
            report=lambda: REPORT,
            serve_control=trio.lowlevel.checkpoint,
        )
        self.fault = None
        self.over = trio.Event()

    async def run(self):
        try:
            await self.channel.serve()
        except (PeerError, ExceptionGroup) as group:
            self.fault = sole(group)
        self.over.set()


@asynccontextmanager
async def both(rules):
    """A host and a viewer of one machine, each at its channel of one authority."""
    async with hostile(rules, linked=False, begun=()) as (made, viewer):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours, theirs:
            host = HostOf(made, ours)
            made.channel._rights._host = host.rights
            async with trio.open_nursery() as nursery:
                nursery.start_soon(host.run)
                yield made, host, RawClient(theirs), viewer
                nursery.cancel_scope.cancel()


def ended(number, lease):
    return record(number, schema.LeaseEnd(**of(lease), outcome="ended"), "note")


async def test_a_permit_for_a_sandbox_whose_end_the_viewer_conceals():
    async with both(ALLOW) as (made, _, host, viewer):
        await host.say(began(1, WORK))
        await host.hear(Empty)
        await viewer.announce(WORK)
        await host.say(ended(2, WORK))
        await host.hear(Empty)
        await viewer.say(ask(2))
        assert "has stopped" in (await viewer.hear(ErrorMessage)).message
        assert made.authority.leases() == []
        assert made.events("decision") == []


async def test_a_permit_of_a_sandbox_that_has_stopped_is_renewed():
    """For ever it could keep a camera, a screen or a security key."""
    async with both(ALLOW) as (_made, _, host, viewer):
        await host.say(began(1, WORK))
        await host.hear(Empty)
        await viewer.announce(WORK)
        await viewer.say(ask(2))
        await viewer.hear(m.Permitted)
        await host.say(ended(2, WORK))
        await host.hear(Empty)
        await viewer.say(
            SentMessage(m.RENEW_WARRANT, m.NamedPermit(2)), call(3, log_rows.REPORT)
        )
        await viewer.hear(log_rows.Report)
        assert not [one for _, one in viewer.heard if isinstance(one, m.PermitNow)]


async def test_a_sandbox_that_has_ended_is_announced_again():
    async with both(ALLOW) as (made, _, host, viewer):
        await host.say(began(1, WORK))
        await host.hear(Empty)
        await viewer.announce(WORK)
        await viewer.say(call(2, log_rows.END_LEASE, log_rows.EndLease(WORK.id)))
        await viewer.hear(Empty)
        await host.say(ended(2, WORK))
        await host.hear(Empty)
        await viewer.say(
            call(
                3,
                log_rows.ANNOUNCE_LEASE,
                log_rows.AnnounceLease(WORK.id, "work", "work", 1),
            ),
            ask(4),
        )
        assert "has stopped" in (await viewer.hear(ErrorMessage)).message
        assert made.authority.leases() == []
        assert made.events("decision") == []


@pytest.mark.parametrize("over", [False, True], ids=["running", "ended"])
async def test_a_host_uses_a_lease_again(over):
    async with both(ALLOW) as (made, host, client, _):
        await client.say(began(1, WORK))
        await client.hear(Empty)
        if over:
            await client.say(ended(2, WORK))
            await client.hear(Empty)
        mine = {**of(VAULT), "lease": WORK.id}
        again = schema.LeaseBegin(**mine, record=VAULT.record)
        await client.say(record(3, again, "require"))
        with trio.fail_after(30):
            await host.over.wait()
        assert "again" in str(host.fault)
        assert len(made.events("lease.begin")) == 1
