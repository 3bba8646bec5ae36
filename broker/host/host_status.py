"""The status of a host: machines, leases, streams."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio
from typing_extensions import override

from broker.core.lease import Opening
from broker.core.process_status import ProcessFigures
from broker.helpers.process.memory import figures_of
from broker.host.machine_interface import PROGRAMS
from broker.host.program_memory import figures_of_programs
from broker.host.role import ActiveLease, HostRole
from broker.host_and_viewer.measured_rows import Found
from broker.host_and_viewer.status_rows import StatusRows, process_status
from broker.ipc.control.types.leases import LeaseStatus
from broker.ipc.control.types.status_rows import ProcessStatus, SandboxStatus
from broker.ipc.in_thread import in_thread
from broker.net.peers.identity import describe
from policy.records.model import Record, RecordSet

_lookers = trio.CapacityLimiter(2)
"""Threads that measure, so that none of those that other work needs is held up."""
_program_lookers = trio.CapacityLimiter(2)
"""The same for programs of sandboxes, whose ends can hold such a thread up."""


@dataclass(frozen=True)
class HostRows(StatusRows):
    """A host's part of the status; of the guests inside it knows nothing."""

    host: HostRole
    records: Callable[[], RecordSet]
    waiting: Callable[[], Sequence[tuple[str, str, int]]]
    """(record, role, pid) of the processes of machines that wait for a start."""

    @override
    async def sandboxes(self) -> list[SandboxStatus]:
        records = self.records().records
        return [
            sandbox_status(active_lease, records.get(active_lease.lease.record))
            for active_lease in self.host.active_leases()
        ]

    @override
    def leases(self) -> list[LeaseStatus]:
        return [lease_status(lease) for lease in self.host.active_leases()]

    @override
    def streams(self) -> list[tuple[Opening, float]]:
        active_leases = self.host.active_leases()
        return [s for t in active_leases for s in t.doors.streams.values()]

    @override
    def processes(self) -> list[ProcessStatus]:
        """Return the processes of running and waiting machines, and of other sandboxes."""
        return [
            process_status(role, pid, active_lease.lease.sandbox)
            for active_lease in self.host.active_leases()
            for role, pid in active_lease.machine.facts.processes
        ] + [
            process_status(f"{role} (waits)", pid, record)
            for record, role, pid in self.waiting()
        ]


def sandbox_status(active_lease: ActiveLease, record: Record | None) -> SandboxStatus:
    """Return the status of a machine as its host sees it."""
    lease, facts = active_lease.lease, active_lease.machine.facts
    built = facts.image_built
    return SandboxStatus(
        name=lease.sandbox,
        record=lease.record,
        sandbox_class="" if record is None else record.viewer.sandbox_class,
        label="" if record is None else record.viewer.label.name,
        color="" if record is None else record.viewer.label.colour,
        state=_state(active_lease),
        pid=facts.pid,
        cid=facts.cid,
        since=active_lease.began,
        accel=facts.accel,
        image=facts.image,
        image_age=None if built is None else max(0.0, time.time() - built),
        programs=[],
    )


def _state(active_lease: ActiveLease) -> str:
    if active_lease.stopping:
        return "stopping"
    return "running" if active_lease.running else "starting"


def lease_status(active_lease: ActiveLease) -> LeaseStatus:
    """Return a lease's fields for ``brokerctl lease list``."""
    lease = active_lease.lease
    return LeaseStatus(
        id=lease.id,
        sandbox=lease.sandbox,
        record=lease.record,
        generation=lease.generation,
        peer=describe(active_lease.held.claim),
        pid=active_lease.machine.facts.pid,
        since=active_lease.began,
    )


async def measure(rows: Sequence[ProcessStatus], found: Found) -> None:
    """Measure the memory of processes into ``found``; of ``PROGRAMS`` with all below.

    In threads: the kernel walks every page of each process of ours for it, and waits for
    one that is changing its memory; streams must not wait as well.
    """
    ours = [row.pid for row in rows if row.role != PROGRAMS]
    await _look(ours, found, figures_of, _lookers)
    theirs = [row.pid for row in rows if row.role == PROGRAMS]
    # guard: programs of sandboxes hold up no figure of other processes
    await _look(theirs, found, figures_of_programs, _program_lookers)


async def _look(
    pids: Sequence[int],
    found: Found,
    figures: Callable[[int], ProcessFigures],
    limiter: trio.CapacityLimiter,
) -> None:
    """Measure in a thread, which stops after the process of the moment if cancelled."""
    wanted = True

    def look() -> None:
        for pid in pids:
            if not wanted:
                return
            found[pid] = figures(pid)

    try:
        # guard: measuring leaves other work its threads
        await in_thread(look, abandon_on_cancel=True, limiter=limiter)
    finally:
        wanted = False
