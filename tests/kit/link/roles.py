"""A host role on its own: a real log, and a viewer and machines made of events.

For orders of things that real machines show once in a thousand times.
"""

from __future__ import annotations

import itertools
import os
import socket
from contextlib import asynccontextmanager, contextmanager, suppress

import trio

from broker.authority.audit.journal import Journal
from broker.authority.audit.refusals import Refusals
from broker.authority.audit.store import open_store
from broker.core.errors import RefusedError, SetupError
from broker.core.lease import Lease
from broker.core.names import LeaseId, SandboxName
from broker.host.admission import Admission
from broker.host.machine_interface import MachineFacts
from broker.host.role import HostRole
from broker.net.hangup import given
from broker.net.peers import credentials
from broker.net.peers.identity import Connector, HybridClaim

LEASE = Lease(LeaseId("0123456789abcdef"), SandboxName("a"), SandboxName("a"), 1)


def own_connector():
    """This process, as one that may connect."""
    pidfd = os.pidfd_open(os.getpid())
    try:
        return Connector(os.getpid(), credentials.pidfd_inode(pidfd))
    finally:
        os.close(pidfd)


def own_claim(base="/nowhere/vm.vsock"):
    """A claim that connections of this process fulfil."""
    return HybridClaim(base, frozenset({own_connector()}))


@asynccontextmanager
async def journal(tmp_path):
    """A journal on a real store; ``Refusals`` write when it ends."""
    async with open_store(tmp_path / "audit.sqlite") as store:
        yield Journal(store, Refusals(store))


class SilentViewer:
    """Takes leases; holds every stream undecided until it is cut."""

    def __init__(self):
        self.offered = 0
        self.more = trio.Event()
        self.begun = []
        self.ended = []

    async def lease_begun(self, lease):
        self.begun.append(lease.id)

    async def lease_ended(self, lease, reason, *, machine_lives=False):
        self.ended.append((lease, reason))

    async def stream_opened(self, opening, conn, *, task_status):
        with given(conn):
            self.offered += 1
            self.more.set()
            self.more = trio.Event()
            await trio.sleep_forever()

    async def wait_offered(self, number):
        while self.offered < number:
            await self.more.wait()


class PaperMachine:
    """A machine whose every step waits for the test, where it asks for that."""

    def __init__(self, claim=None):
        self.claim = claim or own_claim(f"/nowhere/{id(self)}")
        self.facts = MachineFacts()
        self.secret = None
        self.over = trio.Event()
        self.closed = trio.Event()
        self.asked = trio.Event()
        self.may_close = trio.Event()
        self.may_close.set()
        self.graces = []
        self.broken_go = None

    def alive(self):
        return frozenset({os.getpid()})

    async def open_doors(self, acceptors):
        return {}

    async def go(self):
        await trio.lowlevel.checkpoint()
        if self.broken_go is not None:
            raise self.broken_go

    async def wait(self):
        await self.over.wait()
        return "it has ended"

    async def suspend(self):
        await trio.lowlevel.checkpoint()
        self.suspended = True

    async def resume(self):
        await trio.lowlevel.checkpoint()
        self.suspended = False

    async def power_down(self, grace):
        self.graces.append(grace)
        self.asked.set()
        if grace == 0:
            self.over.set()
        with trio.move_on_after(grace):
            await self.over.wait()
        self.over.set()

    async def close(self):
        await self.may_close.wait()
        self.closed.set()


class NoDevices:
    """The devices of a host that hands out none."""

    elsewhere = ""

    def __init__(self):
        self.changed = trio.Event()

    async def standby(self, _opening, conn, *, task_status):
        del task_status
        with conn:
            raise RefusedError("this broker does not assign devices")

    async def devices(self):
        raise SetupError("this broker does not assign devices")

    def attached(self, number, lease):
        raise RefusedError(f"{lease.sandbox} gets no device {number}: there are none")


@asynccontextmanager
async def host_role(tmp_path, open_machine, *, viewer=None, devices=None, **more):
    """A running HostRole; disposable names are not its affair, unless ``more`` has some."""
    async with journal(tmp_path) as log, trio.open_nursery() as nursery:
        role = HostRole(
            viewer=viewer or SilentViewer(),
            log=log,
            open_machine=open_machine,
            devices=devices or NoDevices(),
            **{"name_for": lambda record, taken: record, **more},
        )
        await nursery.start(role.run)
        yield role
        nursery.cancel_scope.cancel()


def pair():
    """Both ends of a stream socket."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


@contextmanager
def full_disk():
    """A text file, buffered as standard error is, on which nothing can be written."""
    full = open("/dev/full", "w", buffering=1)  # noqa: SIM115
    try:
        yield full
    finally:
        with suppress(OSError):  # its buffers cannot be flushed
            full.close()


def old_logs(directory, number):
    """Logs of so many sandboxes that have ended, web-1000 the oldest."""
    for age in range(number):
        path = directory / f"web-{1000 + age}"
        path.mkdir(parents=True)
        (path / "console.log").write_bytes(b"x")
        os.utime(path, (1000 + age, 1000 + age))
    return directory


def own_doors(log, viewer, **more):
    """The doors of a lease whose connections are this process's."""
    numbers = itertools.count(1)
    return Admission(
        lease=LEASE,
        claim=own_claim(),
        alive=lambda: frozenset({own_connector().pid}),
        viewer=viewer,
        log=log,
        next_stream=lambda: next(numbers),
        standby=NoDevices().standby,
        **more,
    )


class AdoptingLauncher:
    """Finds two machines of an earlier broker, a bad one and a good one."""

    def __init__(self):
        self.warnings = []

    async def adopt(self):
        return [("bad", "bad", None), ("good", "good", None)]
