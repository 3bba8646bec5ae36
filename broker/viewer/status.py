"""Collecting what ``brokerctl status`` shows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import trio

from broker import __version__
from broker.audit.store import Store
from broker.control import api
from broker.core.escape import printable
from broker.core.lease import Opening
from broker.core.names import SandboxName
from broker.host.role import ActiveLease, HostRole
from broker.ipc import worker
from broker.link.control import Announced
from broker.peers.identity import describe
from broker.relay.contract import StreamStatistics
from broker.services.link.status import LinkState
from broker.services.pump_supervisor import PumpSupervisor
from broker.services.shipping import Shipping
from broker.services.workers.pool import Workers
from broker.viewer.role import ViewerRole
from broker.viewer.sandboxes.guest import Guest
from broker.viewer.windows import WindowsPart
from policy.records.loader import RecordSet

_PROBLEM_CHARACTERS = 1000
"""Of one problem with a record; a path in it may hold any byte."""
_PROC = Path("/proc")


@dataclass
class Reporter:
    """Everything that has something to say."""

    role: str
    """``local``, ``host`` or ``viewer``."""
    pump: PumpSupervisor
    store: Store
    records: Callable[[], RecordSet]
    warnings: Callable[[], list[str]]
    host: HostRole | None = None
    viewer: ViewerRole | None = None
    workers: Workers | None = None
    shipping: Shipping | None = None
    link: LinkState | None = None
    since: float = field(default_factory=time.time)

    async def status(self) -> api.Status:
        """The whole answer."""
        audit = self.store.statistics()
        streams = {s.name: s for s in await self.pump.streams()}
        counted = await self._counted()
        return api.Status(
            version=__version__,
            role=self.role,
            pid=os.getpid(),
            since=self.since,
            monotonic=trio.current_time(),
            policy=self._policy(),
            sandboxes=await self._sandboxes_with_limits(),
            leases=self.leases(),
            streams=[
                _stream(opening, began, streams, counted)
                for opening, began in self._streams()
            ],
            processes=await _with_memory(self._processes()),
            tasks=trio.lowlevel.current_statistics().tasks_living,
            pump=self._pump(list(streams.values())),
            audit=api.AuditStatus(
                events=audit.events,
                commits=audit.commits,
                failures=audit.failures,
                waiting=audit.waiting,
            ),
            link=None if self.link is None else await self.link.status(),
            warnings=[
                *self.warnings(),
                *([] if self.shipping is None else self.shipping.warnings()),
            ],
        )

    async def _sandboxes_with_limits(self) -> list[api.SandboxStatus]:
        limits = {}
        if self.viewer is not None:
            limits = await WindowsPart(self.viewer).limits()
        return [
            msgspec.structs.replace(s, limits=limits.get(SandboxName(s.name), []))
            for s in self._sandboxes()
        ]

    async def _counted(self) -> dict[int, worker.StreamCount]:
        """Streams that end in workers; each is asked at the same time."""
        counted: dict[int, worker.StreamCount] = {}
        if self.viewer is None:
            return counted

        async def ask(guest: Guest) -> None:
            counted.update(await guest.stream_counts())

        async with trio.open_nursery() as nursery:
            for guest in self.viewer.guests():
                nursery.start_soon(ask, guest)
        return counted

    def _policy(self) -> api.PolicyStatus:
        """Of a host: its records; of a viewer also the rules that decide."""
        records = self.records()
        problems = [f"{p.where}: {p.message}" for p in records.problems]
        rules = None if self.viewer is None else self.viewer.rules
        lines = [] if rules is None else rules.lines()
        return api.PolicyStatus(
            digest=records.digest if rules is None else rules.digest,
            records=records.digest,
            rules=0 if rules is None else len(rules.now.rules.rules),
            kept=rules is not None and rules.now.kept,
            since=0.0 if rules is None else rules.since,
            denies_all=rules is not None and bool(rules.now.rules.problems),
            problems=[printable(p, _PROBLEM_CHARACTERS) for p in [*lines, *problems]],
        )

    def leases(self) -> list[api.LeaseStatus]:
        """The live leases: the host's own, or those announced to the viewer."""
        if self.host is not None:
            return [lease_status(t) for t in self.host.active_leases()]
        if self.link is None or self.link.epoch is None:
            return []
        return [self._announced(a) for a in self.link.epoch.channel.leases.all()]

    def _announced(self, announced: Announced) -> api.LeaseStatus:
        lease = announced.lease
        guest = None if self.viewer is None else self.viewer.guest(lease.id)
        return api.LeaseStatus(
            id=lease.id,
            sandbox=lease.sandbox,
            record=lease.record,
            generation=lease.generation,
            peer=f"the host's {announced.peer}",
            since=time.time() if guest is None else guest.since,
            pending=not announced.confirmed,
        )

    def _sandboxes(self) -> list[api.SandboxStatus]:
        if self.host is not None:
            return [self._sandbox(t) for t in self.host.active_leases()]
        if self.viewer is None:
            return []
        return [_remote_sandbox(g, self.viewer) for g in self.viewer.guests()]

    def _streams(self) -> list[tuple[Opening, float]]:
        if self.host is not None:
            active_leases = self.host.active_leases()
            return [s for t in active_leases for s in t.doors.streams.values()]
        if self.link is None or self.link.epoch is None:
            return []
        return [(s.opening, s.began) for s in self.link.epoch.streams.values()]

    def _sandbox(self, active_lease: ActiveLease) -> api.SandboxStatus:
        lease, facts = active_lease.lease, active_lease.machine.facts
        record = self.records().records.get(lease.record)
        guest = None if self.viewer is None else self.viewer.guest(lease.id)
        built = facts.image_built
        return api.SandboxStatus(
            name=lease.sandbox,
            record=lease.record,
            sandbox_class="" if record is None else record.viewer.sandbox_class,
            label="" if record is None else record.viewer.label.name,
            color="" if record is None else record.viewer.label.colour,
            state=_state(active_lease, guest, windows=self.viewer is not None),
            pid=facts.pid,
            cid=facts.cid,
            since=active_lease.began,
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
        if self.workers is not None and self.workers.template_pid:
            out.append(_process("template", self.workers.template_pid))
        if self.shipping is not None and self.shipping.pid is not None:
            out.append(_process("shipper", self.shipping.pid))
        questions = None if self.viewer is None else self.viewer.questions
        if questions is not None and questions.agent_pid:
            out.append(_process("prompt", questions.agent_pid, jail="seccomp"))
        for guest in [] if self.viewer is None else self.viewer.guests():
            out += _guest_processes(guest)
        for active_lease in [] if self.host is None else self.host.active_leases():
            for role, pid in active_lease.machine.facts.processes:
                out.append(_process(role, pid, active_lease.lease.sandbox))
        return out


def lease_status(active_lease: ActiveLease) -> api.LeaseStatus:
    """What is said of a lease."""
    lease = active_lease.lease
    return api.LeaseStatus(
        id=lease.id,
        sandbox=lease.sandbox,
        record=lease.record,
        generation=lease.generation,
        peer=describe(active_lease.held.claim),
        pid=active_lease.machine.facts.pid,
        since=active_lease.began,
    )


def _remote_sandbox(guest: Guest, viewer: ViewerRole) -> api.SandboxStatus:
    lease = guest.lease
    record = viewer.record(lease.record)
    return api.SandboxStatus(
        name=lease.sandbox,
        record=lease.record,
        sandbox_class="" if record is None else record.viewer.sandbox_class,
        label="" if record is None else record.viewer.label.name,
        color="" if record is None else record.viewer.label.colour,
        state="starting" if guest.agent is None else "running",
        since=guest.since,
        programs=_programs(guest),
    )


def _state(active_lease: ActiveLease, guest: Guest | None, *, windows: bool) -> str:
    if active_lease.stopping:
        return "stopping"
    if not windows:  # whether its agent answers, the viewer knows
        return "running" if active_lease.running else "starting"
    ready = guest is not None and guest.agent is not None
    return "running" if ready else "starting"


def _programs(guest: Guest) -> list[api.ProgramStatus]:
    return [
        api.ProgramStatus(program=p.number, name=p.name, since=p.began)
        for p in guest.programs.live()
    ]


def _stream(
    opening: Opening,
    began: float,
    numbers: dict[str, StreamStatistics],
    counted: dict[int, worker.StreamCount],
) -> api.StreamStatus:
    live = numbers.get(str(opening.stream))
    claimed = counted.get(opening.stream)
    if live is None and claimed is not None:
        up, down = claimed.from_guest, claimed.to_guest
    else:
        up, down = (0, 0) if live is None else (live.bytes_ab, live.bytes_ba)
    return api.StreamStatus(
        stream=opening.stream,
        sandbox=opening.lease.sandbox,
        lease=opening.lease.id,
        service=opening.service,
        bytes_from_sandbox=up,
        bytes_to_sandbox=down,
        since=began,
        work=0.0 if claimed is None else claimed.work / 1000,
        mode="worker" if live is None else f"{live.mode_ab}/{live.mode_ba}",
    )


def _guest_processes(guest: Guest) -> list[api.ProcessStatus]:
    out: list[api.ProcessStatus] = []
    name = guest.lease.sandbox
    if guest.worker is not None:
        jail = guest.worker.jail
        walls = ["namespaces"] * jail.namespaces + ["seccomp"] * jail.seccomp
        walls += ["landlock"] * bool(jail.landlock)
        pid = guest.worker.keeper_pid
        out.append(_process("keeper", pid, name, jail="seccomp" * jail.seccomp))
        out.append(
            _process("worker", guest.worker.inner_pid, name, jail=" ".join(walls))
        )
    if guest.waypipe.client is not None:
        out.append(
            _process(
                "waypipe-client",
                guest.waypipe.client.child.pid,
                name,
                jail=guest.waypipe.client.jail,
            )
        )
    return out


def _process(
    role: str, pid: int, sandbox: str = "", *, jail: str = ""
) -> api.ProcessStatus:
    return api.ProcessStatus(role=role, pid=pid, sandbox=sandbox, jail=jail)


async def _with_memory(
    processes: list[api.ProcessStatus],
) -> list[api.ProcessStatus]:
    """The same with their memory."""
    # In a thread: the kernel walks every page of each process for it, and waits
    # for one that is changing its memory; streams must not wait as well.
    pids = [process.pid for process in processes]
    sizes = await trio.to_thread.run_sync(_memories, pids, abandon_on_cancel=True)
    return [
        msgspec.structs.replace(process, memory=size)
        for process, size in zip(processes, sizes, strict=True)
    ]


def _memories(pids: list[int]) -> list[int]:
    return [_memory(pid) for pid in pids]


def _memory(pid: int) -> int:
    """The process's proportional share of memory in bytes (smaps_rollup, Pss).

    0 when it has ended, or is not ours to look at.
    """
    try:
        text = (_PROC / str(pid) / "smaps_rollup").read_text("ascii")
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
