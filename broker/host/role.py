"""The host's part: machines, leases and doors.

It interprets no byte of a guest and evaluates no rule.  It knows which
sandboxes its records allow it to start, who a connection comes from, and
for how long that is true.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import trio

from broker.authority.audit import event_log
from broker.core.errors import (
    RefusedError,
    UpstreamError,
    VitrailError,
    sole,
)
from broker.core.launch_changes import NO_CHANGES, LaunchChanges
from broker.core.lease import Lease, Opening
from broker.core.names import LeaseId, SandboxName
from broker.core.services import NETWORK
from broker.core.stderr_log import isolated, log_exception, run_isolated
from broker.host.acceptor import Acceptors
from broker.host.admission import Admission, Carry
from broker.host.machine_interface import Machine
from broker.host.room import Room
from broker.ipc.audit import schema
from broker.ipc.host_viewer import DeviceSource, TaskStatus, Viewer
from broker.net.peers.identity import describe
from broker.net.peers.leases import Held, LeaseTable

Progress = Callable[[str], None]

OpenMachine = Callable[
    [SandboxName, SandboxName, frozenset[int], Progress, LaunchChanges],
    Awaitable[Machine],
]
"""(sandbox, record, CIDs that must not be used, progress, changes for this start) ->
a machine that waits."""

NameFor = Callable[[SandboxName, frozenset[SandboxName]], SandboxName]
"""(record, names in use) -> the name of the sandbox to start, or RefusedError."""

StartBox = Callable[[SandboxName, trio.Event], Awaitable[bool]]
"""(record, set once it is leased): start a box or container for a call, and wait until it
is leased.  False, and nothing is done, for a machine's record.  Raises VitrailError."""


def _quiet(what: str) -> None:
    """Ignore the progress."""


@dataclass(eq=False)
class ActiveLease:
    """A live lease with all that hangs on it."""

    held: Held
    machine: Machine
    doors: Admission
    began: float = field(default_factory=time.time)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)
    reason: str = ""
    running: bool = False
    stopping: bool = False
    unwanted: bool = False
    """The viewer has refused it, so it never had a stream."""
    keep_machine: bool = False
    """The lease ends and the machine lives on (a released foreign lease)."""

    @property
    def lease(self) -> Lease:
        """The lease itself."""
        return self.held.lease


class HostDevices(DeviceSource, Protocol):
    """The devices of a host, and the connections of its guests that wait for one."""

    @property
    def standby(self) -> Carry:
        """Keeps such a connection."""
        ...


class HostRole:
    """Implements ``host_viewer.Machines`` for one machine's sandboxes."""

    def __init__(
        self,
        *,
        viewer: Viewer,
        log: event_log.EventLog,
        open_machine: OpenMachine,
        name_for: NameFor,
        devices: HostDevices,
        room: Room | None = None,
        start_box: StartBox | None = None,
        acceptors: Acceptors | None = None,
    ) -> None:
        self._viewer = viewer
        self._log = log
        self._open_machine = open_machine
        self._name_for = name_for
        self._room = room or Room(lambda _record, _changes: None)
        self._start_box = start_box
        self._awaited: dict[SandboxName, trio.Event] = {}
        """Boxes that another process starts, which ``admit`` leases."""
        self._table = LeaseTable()
        self._tenancies: dict[LeaseId, ActiveLease] = {}
        self._starting: dict[SandboxName, trio.Event] = {}
        self._streams = itertools.count(1)
        self._nursery: trio.Nursery | None = None
        self._closing = False
        self.acceptors = acceptors or Acceptors()
        """Accept the connections of containers and boxes."""
        self.devices = devices
        """The devices of this machine."""
        self.before_run: Callable[[], None] = lambda: None
        """Called when a sandbox is leased, before its programs run."""

    async def run(self, *, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Run the tasks of all leases until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.acceptors.run)
            task_status.started()
            await trio.sleep_forever()

    def refuse_new(self) -> None:
        """Admit nothing more: the broker is about to end."""
        self._closing = True

    def active_leases(self) -> list[ActiveLease]:
        """All live leases, oldest first."""
        return list(self._tenancies.values())

    # -- host_viewer.Machines -----------------------------------------------

    async def start(
        self,
        record: SandboxName,
        *,
        progress: Callable[[str], None] = _quiet,
        changes: LaunchChanges = NO_CHANGES,
        for_sandbox: bool = False,
    ) -> Lease:
        """Start the sandbox of a record, or return its lease if it runs.

        ``for_sandbox``: a sandbox has asked for it, and the user has not.
        Raises RefusedError.
        """
        while True:
            if record in self._starting:  # a persistent sandbox that is coming up
                await self._starting[record].wait()
                continue
            names = frozenset(t.lease.sandbox for t in self.active_leases())
            sandbox = self._name_for(record, names | frozenset(self._starting))
            held = self._table.of_sandbox(sandbox)
            if held is None:
                break
            if not self._tenancies[held.lease.id].stopping:
                # guard: a machine that runs is not changed
                if changes:
                    raise RefusedError(
                        f"cannot change memory, processors, network or image of '{sandbox}': it is running",
                        hint=f"to stop it first, run 'brokerctl stop {sandbox}'",
                    )
                return held.lease
            await self._tenancies[held.lease.id].ended.wait()
        # Nothing was awaited since it was found free: no other start is here.
        self._starting[sandbox] = trio.Event()
        try:
            if for_sandbox and self._start_box is not None:
                leased = self._awaited[sandbox] = trio.Event()
                if await self._start_box(record, leased):
                    return self._lease_of(sandbox)
            with self._room.promised(
                record, changes, progress, for_sandbox=for_sandbox
            ) as promise:
                closed = self._table.closed_cids(trio.current_time())
                machine = await self._open_machine(
                    sandbox, record, closed, progress, changes
                )
                active_lease = await self.admit(sandbox, record, machine)
                promise.keep(machine.facts.pid, active_lease.ended)
                return active_lease.lease
        finally:
            self._awaited.pop(sandbox, None)
            self._starting.pop(sandbox).set()

    def _lease_of(self, sandbox: SandboxName) -> Lease:
        held = self._table.of_sandbox(sandbox)
        if held is None:
            raise UpstreamError(f"'{sandbox}' ended at once")
        return held.lease

    async def stop(self, lease: LeaseId, *, grace: float, reason: str) -> None:
        """End a sandbox; returns when it is gone."""
        active_lease = self._tenancies.get(lease)
        if active_lease is None:
            return
        active_lease.stopping = True
        active_lease.reason = active_lease.reason or reason
        assert self._nursery is not None
        # Not in the caller's task: the caller may go away, and a machine would
        # be left half ended.
        self._nursery.start_soon(run_isolated, active_lease.machine.power_down, grace)
        await active_lease.ended.wait()

    async def suspend(self, lease: LeaseId, *, suspended: bool) -> None:
        """See ``Machines``.  Raises RefusedError, UpstreamError.

        Both are recorded in the audit log, a suspension before it takes effect.
        """
        active_lease = self._tenancies.get(lease)
        if active_lease is None or active_lease.stopping or not active_lease.running:
            raise RefusedError("the sandbox is starting or stopping")
        machine, about = active_lease.machine, event_log.of(active_lease.lease)
        if suspended:
            await self._log.require(schema.SandboxSuspend(**about))
            # guard: a machine that is to end runs until then
            if active_lease.stopping:
                raise RefusedError("the sandbox is starting or stopping")
            await machine.suspend()
        else:
            await machine.resume()
            await self._log.note(schema.SandboxResume(**about))

    # -- leases ------------------------------------------------------------------

    async def admit(
        self, sandbox: SandboxName, record: SandboxName, machine: Machine
    ) -> ActiveLease:
        """Lease a machine and let it run; owns the machine from now on.

        Raises RefusedError when there can be no such lease, and whatever the viewer or
        the machine raises on the way; the machine is closed then.  The lease is
        recorded in the audit log before the machine runs.
        """
        try:
            active_lease = await self._grant(sandbox, record, machine)
        except BaseException as error:
            with trio.CancelScope(shield=True):
                with isolated():
                    await machine.power_down(0)
                with isolated():
                    await machine.close()
                if isinstance(error, VitrailError):
                    await self._log.refused(
                        schema.LeaseRefused(
                            sandbox=sandbox,
                            peer=describe(machine.claim),
                            outcome="refused",
                            reason=str(error),
                        )
                    )
            raise
        assert self._nursery is not None
        # From here on _hold cleans up, in every outcome.
        await self._nursery.start(self._hold, active_lease)
        if sandbox in self._awaited:
            self._awaited[sandbox].set()
        return active_lease

    async def _grant(
        self, sandbox: SandboxName, record: SandboxName, machine: Machine
    ) -> ActiveLease:
        """Enter a lease and begin to serve it.  Raises RefusedError.

        The lease is recorded in the audit log before it is announced.
        """
        if self._nursery is None or self._closing:
            raise RefusedError("this broker is starting or shutting down")
        lease = self._table.begin(
            sandbox=sandbox,
            record=record,
            claim=machine.claim,
            now=trio.current_time(),
        )
        held = self._table.get(lease.id)
        assert held is not None
        doors = Admission(
            lease=lease,
            claim=machine.claim,
            alive=machine.alive,
            viewer=self._viewer,
            log=self._log,
            next_stream=lambda: next(self._streams),
            standby=self.devices.standby,
            secret=machine.secret,
        )
        active_lease = ActiveLease(held, machine, doors)
        self._tenancies[lease.id] = active_lease
        begin = schema.LeaseBegin(
            **event_log.of(lease),
            peer=describe(machine.claim),
            record=record,
            pid=machine.facts.pid or 0,
        )
        try:
            await self._log.require(begin)
        except BaseException:
            self._forget(active_lease, taken=False)
            active_lease.ended.set()  # its end may have been requested meanwhile
            raise
        return active_lease

    async def _hold(
        self,
        active_lease: ActiveLease,
        *,
        task_status: TaskStatus = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Hold a lease until it ends: serve its connections, then end its streams."""
        began: list[LeaseId] = []
        try:
            await self._live(active_lease, began, task_status)
        except Exception as error:  # noqa: BLE001 -- an internal error: see below
            if not active_lease.running:
                first = sole(error)
                active_lease.reason = active_lease.reason or str(first)
                raise first from first.__cause__  # to the caller of the start
            # An internal error in one lease must not end the others.
            active_lease.reason = "an internal error occurred; see the broker's log"
            log_exception(error)
        finally:
            with trio.CancelScope(shield=True):
                await self._end(active_lease, began)

    async def _live(
        self,
        active_lease: ActiveLease,
        began: list[LeaseId],
        task_status: TaskStatus,
    ) -> None:
        """Serve a lease: open its doors and announce it, until it ends."""
        machine = active_lease.machine
        listeners = await machine.open_doors(self.acceptors)
        try:
            try:
                await self._viewer.lease_begun(active_lease.lease)
            except RefusedError:
                active_lease.unwanted = True
                raise
            began.append(active_lease.lease.id)
            with active_lease.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(active_lease.doors.serve, listeners)
                    nursery.start_soon(self._carry_flows, active_lease)
                    await self._lend_arena(active_lease)
                    self.before_run()
                    await machine.go()
                    active_lease.running = True
                    task_status.started()
                    reason = await machine.wait()
                    active_lease.stopping = True  # a start waits for the next one now
                    active_lease.reason = active_lease.reason or reason
                    nursery.cancel_scope.cancel()
            if not active_lease.running:
                raise UpstreamError(
                    f"'{active_lease.lease.sandbox}' ended while starting: {active_lease.reason}"
                )
        finally:
            for listener in listeners.values():
                listener.close()

    async def _lend_arena(self, active_lease: ActiveLease) -> None:
        """Before the guest runs; without it the guest sends its pixels."""
        arena: int = getattr(active_lease.machine, "arena", -1)
        if arena >= 0:
            with isolated():
                await self._viewer.arena_lent(active_lease.lease.id, arena)

    async def machine_stopped(self, sandbox: SandboxName, reason: str) -> None:
        """Announce to the viewer that a machine was stopped, for this reason, or runs ("")."""
        active = self._table.of_sandbox(sandbox)
        if active is not None:
            await self._viewer.machine_stopped(active.lease.id, reason)

    async def _carry_flows(self, active_lease: ActiveLease) -> None:
        """Connect a sandbox's network filter to the viewer, if it asks about flows."""
        machine = active_lease.machine
        conn: socket.socket | None = getattr(machine, "flows", None)
        if conn is None:
            return
        opening = Opening(
            active_lease.lease, NETWORK, next(self._streams), describe(machine.claim)
        )
        with isolated():
            # Without an answer the filter carries nothing.
            await self._viewer.stream_opened(
                opening, conn, task_status=trio.TASK_STATUS_IGNORED
            )

    async def _end(self, active_lease: ActiveLease, began: list[LeaseId]) -> None:
        """End a lease: tell the viewer, power off and close the machine, forget it.

        The end is recorded in the audit log.
        """
        reason = active_lease.reason or "the broker ends"
        active_lease.reason = reason
        for lease in began:
            with isolated():
                await self._viewer.lease_ended(lease, reason)
        with isolated():
            if not active_lease.keep_machine:
                await active_lease.machine.power_down(0)
        with isolated():
            await active_lease.machine.close()
        self._forget(active_lease, taken=not active_lease.unwanted)
        with isolated():
            await self._log.note(
                schema.LeaseEnd(
                    **event_log.of(active_lease.lease),
                    peer=describe(active_lease.held.claim),
                    outcome="ended",
                    reason=reason,
                )
            )
        active_lease.ended.set()

    def _forget(self, active_lease: ActiveLease, *, taken: bool) -> None:
        self._table.end(active_lease.lease.id, trio.current_time(), taken=taken)
        self._tenancies.pop(active_lease.lease.id, None)

    async def release(self, lease: LeaseId, reason: str) -> None:
        """End a lease and leave its machine running; return when the lease has ended.

        Raises RefusedError.
        """
        active_lease = self._tenancies.get(lease)
        if active_lease is None:
            raise RefusedError(
                f"lease {lease} does not exist",
                hint="to list the leases, run 'brokerctl lease list'",
            )
        active_lease.keep_machine = active_lease.stopping = True
        active_lease.reason = active_lease.reason or reason
        active_lease.scope.cancel()
        await active_lease.ended.wait()
