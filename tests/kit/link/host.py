"""A host's end of the link in the test's own hands, against a real viewer.

It holds the host's key, so it is what a taken-over host, or one that keeps
old bytes, could be; and plain sockets for those that hold no key at all.
"""

from __future__ import annotations

import itertools
import secrets
import socket
from contextlib import asynccontextmanager

import trio

from broker.core.lease import Lease
from broker.core.names import LeaseId, SandboxName
from broker.ipc.host_rows import LEASE_BEGUN, LeaseBegun
from broker.net.addresses import UnixEndpoint
from broker.net.endpoints import connect
from broker.net.link.wire_types import Role
from broker.net.link_service.epoch import Epoch
from broker.net.link_service.key_store import LinkStore
from broker.net.link_service.sockets import receive, send_all, shake_hands
from tests.kit.link.handling import obey, parts_of

_GENERATIONS = itertools.count(1)


_OPEN: list[socket.socket] = []


async def dial(path) -> socket.socket:
    """A connection to the door; closed with the others at the end."""
    sock = await connect(UnixEndpoint(path))
    _OPEN.append(sock)
    return sock


def close_all():
    """Close what ``dial`` and ``say`` have opened."""
    while _OPEN:
        _OPEN.pop().close()


async def rest_of(sock, patience=60):
    """Everything that still comes, until the end; fails when none comes."""
    got = b""
    with trio.fail_after(patience):
        while data := await receive(sock):
            got += data
    return got


@asynccontextmanager
async def link_host(t, identity=None, handle=obey):
    """An epoch with the viewer of ``t``, as its paired host."""
    store = LinkStore(t.host.paths)
    sock = await dial(t.socket)
    session, rest = await shake_hands(
        sock,
        role=Role.HOST,
        dials=True,
        identity=identity or store.identity(),
        peers=store.peers(),
    )
    epoch = Epoch(session, sock, parts_of(handle), rest=rest)
    async with trio.open_nursery() as nursery:
        await nursery.start(epoch.run)
        try:
            yield epoch
        finally:
            epoch.end("the test is over")
            with trio.CancelScope(shield=True), trio.move_on_after(5):
                await epoch.over.wait()
            nursery.cancel_scope.cancel()


async def announce(epoch, record="app", sandbox=None, peer="test"):
    """Announce a lease of that record; returns it."""
    name = SandboxName(sandbox or f"{record}-{1000 + next(_GENERATIONS)}")
    lease = Lease(LeaseId(secrets.token_hex(8)), name, SandboxName(record), 1)
    await epoch.call(LEASE_BEGUN, LeaseBegun.of(lease, peer))
    return lease


async def say(path, data):
    """Open a connection and send ``data`` on it."""
    sock = await dial(path)
    await send_all(sock, data)
    return sock
