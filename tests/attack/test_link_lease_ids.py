"""A host that was taken over plays with the ids of its leases.

The end of a lease and the beginning of another with its id in one packet must
not leave a sandbox that no list knows, nor decide as one and be shown as the
other.
"""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager

import trio

from broker.core.lease import Lease
from broker.core.names import LeaseId, SandboxName
from broker.ipc.host_rows import LEASE_BEGUN, LEASE_ENDED, LeaseBegun, LeaseEnded
from broker.wire.pending_call import PendingCall
from tests.kit.link.ends import HoldingViewer, a_viewer
from tests.kit.link.handling import look
from tests.kit.link.host import obey

TIMES = 20


class Lax:
    """A book of leases that permits everything, on the attacker's end."""

    def begin(self, call, message):
        """Whatever it is."""

    def end(self, message):
        """Whatever it is."""

    def confirm(self, call, message):
        """Whatever it is."""

    def all(self):
        return []


class NotingViewer(HoldingViewer):
    """Takes its time for each lease, and notes the calls."""

    def __init__(self):
        super().__init__()
        self.told = []

    async def lease_begun(self, lease):
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        self.told.append(("begun", lease.id))
        await super().lease_begun(lease)

    async def lease_ended(self, lease, reason, *, machine_lives=False):
        self.told.append(("ended", lease))
        await super().lease_ended(lease, reason)


@asynccontextmanager
async def taken_host(tmp_path):
    """An epoch of a host without rules, and the viewer at its other end."""
    viewer = NotingViewer()
    async with a_viewer(tmp_path, viewer) as (ends, _, _, nursery):
        epoch = await ends.dialled(nursery, obey)
        epoch.ledger.leases = Lax()
        yield epoch, viewer


def lease(sandbox, ident=None):
    name = SandboxName(sandbox)
    return Lease(LeaseId(ident or secrets.token_hex(8)), name, SandboxName("app"), 1)


def put(epoch, row, request):
    """Put a call into the next packet."""
    epoch._carrier.put(epoch.peer._enter(PendingCall(row, request, None, None, b""), 0))


async def test_an_id_is_never_another_leases(tmp_path):
    async with taken_host(tmp_path) as (epoch, viewer):
        one = lease("app-1")
        await epoch.call(LEASE_BEGUN, LeaseBegun.of(one, "test"))
        other = lease("app-2", one.id)
        put(epoch, LEASE_ENDED, LeaseEnded(one.id, "gone"))
        put(epoch, LEASE_BEGUN, LeaseBegun.of(other, "test"))
        await epoch.over.wait()
        assert all(found.sandbox != "app-2" for found in viewer.leases)


async def test_what_begins_and_ends_in_one_packet_ends_last(tmp_path):
    async with taken_host(tmp_path) as (epoch, viewer):
        leases = [lease(f"app-{n}") for n in range(TIMES)]
        for one in leases:
            put(epoch, LEASE_BEGUN, LeaseBegun.of(one, "test"))
            put(epoch, LEASE_ENDED, LeaseEnded(one.id, "gone"))
        await look(epoch)
        # One that is withdrawn while it begins ends twice, so the ends are no measure.
        while {ident for kind, ident in viewer.told if kind == "ended"} != {
            one.id for one in leases
        }:
            await trio.lowlevel.checkpoint()
        for one in leases:
            kinds = [kind for kind, ident in viewer.told if ident == one.id]
            assert kinds[0] == "begun"
            assert kinds[-1] == "ended"
        assert viewer.leases == []
