"""Collecting what ``brokerctl status`` shows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from broker import __version__
from broker.audit.store import Store
from broker.control import api
from broker.peers.identity import describe
from broker.relay.contract import StreamStatistics
from broker.session.guest import Guest
from broker.session.host import HostRole, Tenancy
from broker.session.pumps import PumpKeeper
from broker.session.viewer import ViewerRole
from broker.session.workers import Workers
from policy.loader import RecordSet


@dataclass
class Reporter:
    """Everything that has something to say."""

    host: HostRole
    viewer: ViewerRole
    pump: PumpKeeper
    workers: Workers
    store: Store
    records: Callable[[], RecordSet]
    warnings: Callable[[], list[str]]
    since: float = field(default_factory=time.time)

    async def status(self) -> api.Status:
        """The whole answer."""
        records = self.records()
        audit = self.store.statistics()
        streams = {s.name: s for s in await self.pump.streams()}
        return api.Status(
            version=__version__,
            role="local",
            pid=os.getpid(),
            since=self.since,
            monotonic=trio.current_time(),
            policy=api.PolicyStatus(
                digest=records.digest,
                problems=[f"{p.where}: {p.message}" for p in records.problems],
            ),
            sandboxes=[self._sandbox(t) for t in self.host.tenancies()],
            leases=[lease_status(t) for t in self.host.tenancies()],
            streams=[s for t in self.host.tenancies() for s in _streams(t, streams)],
            processes=self._processes(),
            tasks=trio.lowlevel.current_statistics().tasks_living,
            pump=self._pump(list(streams.values())),
            audit=api.AuditStatus(
                events=audit.events,
                commits=audit.commits,
                failures=audit.failures,
                waiting=audit.waiting,
            ),
            warnings=self.warnings(),
        )

    def _sandbox(self, tenancy: Tenancy) -> api.SandboxStatus:
        lease, facts = tenancy.lease, tenancy.machine.facts
        record = self.viewer.record(lease.record)
        guest = self.viewer.guest(lease.id)
        built = facts.image_built
        return api.SandboxStatus(
            name=lease.sandbox,
            record=lease.record,
            sandbox_class="" if record is None else record.viewer.sandbox_class,
            label="" if record is None else record.viewer.label.name,
            color="" if record is None else record.viewer.label.colour,
            state=_state(tenancy, guest),
            pid=facts.pid,
            cid=facts.cid,
            since=tenancy.began,
            accel=facts.accel,
            image=facts.image,
            image_age=None if built is None else max(0.0, time.time() - built),
            programs=[] if guest is None else _programs(guest),
        )

    def _pump(self, streams: list[StreamStatistics]) -> api.PumpStatus:
        numbers = self.pump.statistics()
        return api.PumpStatus(
            pid=numbers.pid,
            streams=numbers.streams,
            streams_total=numbers.streams + sum(numbers.ended.values()),
            bytes_total=sum(s.bytes_ab + s.bytes_ba for s in streams),
        )

    def _processes(self) -> list[api.ProcessStatus]:
        out = [_process("broker", os.getpid())]
        pump = self.pump.statistics()
        out.append(_process("pump", pump.pid, jail="seccomp" if pump.confined else ""))
        if self.workers.template_pid:
            out.append(_process("template", self.workers.template_pid))
        for guest in self.viewer.guests():
            out += _guest_processes(guest)
        for tenancy in self.host.tenancies():
            for role, pid in tenancy.machine.facts.processes:
                out.append(_process(role, pid, tenancy.lease.sandbox))
        return out


def lease_status(tenancy: Tenancy) -> api.LeaseStatus:
    """What is said of a lease."""
    lease = tenancy.lease
    return api.LeaseStatus(
        id=lease.id,
        sandbox=lease.sandbox,
        record=lease.record,
        generation=lease.generation,
        peer=describe(tenancy.held.claim),
        pid=tenancy.machine.facts.pid,
        since=tenancy.began,
    )


def _state(tenancy: Tenancy, guest: Guest | None) -> str:
    if tenancy.stopping:
        return "stopping"
    ready = guest is not None and guest.agent is not None
    return "running" if ready else "starting"


def _programs(guest: Guest) -> list[api.ProgramStatus]:
    return [
        api.ProgramStatus(program=p.number, name=p.name, since=p.began)
        for p in guest.programs.live()
    ]


def _streams(
    tenancy: Tenancy, numbers: dict[str, StreamStatistics]
) -> list[api.StreamStatus]:
    out: list[api.StreamStatus] = []
    for opening, began in tenancy.doors.streams.values():
        live = numbers.get(str(opening.stream))
        out.append(
            api.StreamStatus(
                stream=opening.stream,
                sandbox=tenancy.lease.sandbox,
                lease=tenancy.lease.id,
                service=opening.service,
                bytes_from_sandbox=0 if live is None else live.bytes_ab,
                bytes_to_sandbox=0 if live is None else live.bytes_ba,
                since=began,
                mode="worker" if live is None else f"{live.mode_ab}/{live.mode_ba}",
            )
        )
    return out


def _guest_processes(guest: Guest) -> list[api.ProcessStatus]:
    out: list[api.ProcessStatus] = []
    name = guest.lease.sandbox
    if guest.worker is not None:
        jail = guest.worker.jail
        walls = ["namespaces"] * jail.namespaces + ["seccomp"] * jail.seccomp
        walls += ["landlock"] * bool(jail.landlock)
        out.append(_process("keeper", guest.worker.keeper_pid, name))
        out.append(
            _process("worker", guest.worker.inner_pid, name, jail=" ".join(walls))
        )
    if guest.waypipe is not None:
        out.append(
            _process(
                "waypipe-client",
                guest.waypipe.child.pid,
                name,
                jail="bubblewrap seccomp",
            )
        )
    return out


def _process(
    role: str, pid: int, sandbox: str = "", *, jail: str = ""
) -> api.ProcessStatus:
    return api.ProcessStatus(
        role=role, pid=pid, sandbox=sandbox, memory=_memory(pid), jail=jail
    )


def _memory(pid: int) -> int:
    """The process's proportional share of memory in bytes (smaps_rollup, Pss).

    0 when it has ended, or is not ours to look at.
    """
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
