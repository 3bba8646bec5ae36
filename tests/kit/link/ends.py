"""One end of the link in this process: its real code, and its surroundings made up.

The other end is the test's own (``kit.linkhost`` against whole brokers): it holds
the right key, so it is what a broker that was taken over could be.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager

import trio

from broker.cli.link.pairing.pinned import pin
from broker.core.errors import RefusedError
from broker.core.lease import Lease
from broker.host.viewer_link import RemoteViewer
from broker.net.addresses import UnixEndpoint
from broker.net.hangup import given
from broker.net.link.keys import PinnedPeer
from broker.net.link.link_rows import Witnessed
from broker.net.link.wire_types import Role
from broker.net.link_service.config import LinkConfig
from broker.net.link_service.epoch import Epoch
from broker.net.link_service.key_store import LinkStore
from broker.net.link_service.sockets import dial, shake_hands
from broker.net.listeners import open_listener
from broker.viewer.host_ends.host_link import RemoteHost
from tests.kit.link.handling import parts_of
from tests.kit.link.roles import journal
from tests.kit.link.two_brokers import make_side, pair
from tests.kit.wayland.compositor import short_directory


class Ends:
    """Where both ends are, and the keys of both."""

    def __init__(self, base):
        self._base = base
        self.host = make_side(base / "h", None, "host", [])
        self.viewer = make_side(base / "v", None, "viewer", [])
        pair(self.host, self.viewer)
        self.notices = []
        self.config = LinkConfig(UnixEndpoint(base / "link"))

    def store(self, role):
        side = self.host if role is Role.HOST else self.viewer
        return LinkStore(side.paths)

    def host_end(self, log, host=None):
        """The host's, with machines that ``kit.roles`` makes; ``host`` returns them."""
        return RemoteViewer(
            self.config,
            self.store(Role.HOST),
            host=host,
            pump=None,
            log=log,
            peer_of=lambda lease: f"test {lease}",
            reload=trio.lowlevel.checkpoint,
            warnings=_no_warnings,
            witness=NoWitness(),
            broken=lambda _record: "",
        )

    def viewer_end(self, log, viewer):
        return RemoteHost(
            self.config,
            self.store(Role.VIEWER),
            viewer=lambda: viewer,
            log=log,
            reload=trio.lowlevel.checkpoint,
            warnings=_no_warnings,
            witness=NoWitness(),
            notify=lambda *shown: self.notices.append(shown),
        )

    def another_host(self, name):
        """The keys of one more host, paired with the same viewer."""
        side = make_side(self._base / name, None, "host", [])
        at_host, at_viewer = LinkStore(side.paths), self.store(Role.VIEWER)
        pin(at_host, PinnedPeer("screen", Role.VIEWER, at_viewer.identity().public))
        pin(at_viewer, PinnedPeer(name, Role.HOST, at_host.identity().public))
        return at_host

    async def shake(self, sock, role, handle, store=None):
        """An epoch of the test's own, not running yet."""
        store = store or self.store(role)
        session, rest = await shake_hands(
            sock,
            role=role,
            dials=role is Role.HOST,
            identity=store.identity(),
            peers=store.peers(),
        )
        return Epoch(session, sock, parts_of(handle), rest=rest)

    async def dialled(self, nursery, handle, store=None):
        """A running epoch with the viewer's end, as its host or another one."""
        epoch = await self.shake(await dial(self.config), Role.HOST, handle, store)
        await nursery.start(epoch.run)
        return epoch

    async def listener(self):
        return await open_listener(self.config.endpoint)

    async def accepted(self, listener, nursery, handle):
        """A running epoch with the host's end, which has dialled, as its viewer."""
        epoch = await self.shake(await listener.accept(), Role.VIEWER, handle)
        await nursery.start(epoch.run)
        return epoch


async def _no_warnings():
    return []


class NoWitness:
    """A witness that keeps no checkpoints and has none."""

    async def attend(self, _epoch):
        await trio.sleep_forever()

    async def take(self, _epoch, request):
        del request
        return Witnessed([])


class HoldingViewer:
    """A viewer's role that counts the streams that come to it.

    It decides about none of them, or ``takes`` all.
    """

    def __init__(self):
        self.takes = False
        self.leases: list[Lease] = []
        self.arenas = []
        self.offered = []
        self.more = trio.Event()

    async def lease_begun(self, lease):
        self.leases.append(lease)

    async def arena_lent(self, lease, fd):
        if lease not in [one.id for one in self.leases]:
            raise RefusedError("the lease was not announced to this viewer")
        self.arenas.append((lease, os.fstat(fd).st_ino))

    async def lease_ended(self, lease, reason, *, machine_lives=False):
        del reason
        self.leases = [one for one in self.leases if one.id != lease]

    async def stream_opened(self, opening, conn, *, answer, task_status):
        del task_status
        with given(conn):
            if self.takes:
                await answer(None)
            self.offered.append(opening.lease.id)
            self.more.set()
            self.more = trio.Event()
            await trio.sleep_forever()

    def guests(self):
        return []

    async def wait_offered(self, number):
        while len(self.offered) < number:
            await self.more.wait()


@asynccontextmanager
async def a_viewer(tmp_path, viewer=None):
    """A viewer's end in this process, whose role decides nothing."""
    viewer = viewer or HoldingViewer()
    with short_directory() as base:
        ends = Ends(base)
        async with journal(tmp_path) as log, trio.open_nursery() as nursery:
            remote = ends.viewer_end(log, viewer)
            await nursery.start(remote.run, await ends.listener())
            with trio.fail_after(60):
                yield ends, viewer, remote, nursery
            nursery.cancel_scope.cancel()
