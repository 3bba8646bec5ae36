"""The status of a broker, joined from the rows of its parts: host, viewer or both."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec
import trio

from broker import __version__
from broker.core.authority_report import AuthorityReport
from broker.core.lease import Opening
from broker.core.process_status import status_fields
from broker.helpers.process.memory import read_memory
from broker.host_and_viewer.pump_supervisor import PumpSupervisor
from broker.host_and_viewer.status_rows import StatusRows, StreamCount, process_status
from broker.ipc.control.types.leases import LeaseStatus
from broker.ipc.control.types.status import (
    LinkStatus,
    PumpStatus,
    Status,
    StreamStatus,
)
from broker.ipc.control.types.status_rows import ProcessStatus, SandboxStatus
from broker.ipc.in_thread import in_thread
from broker.ipc.pump import StreamStatistics

_LOOK_SECONDS = 3.0
_lookers = trio.CapacityLimiter(2)
"""Threads that measure, so that none of those that other work needs is held up."""


@dataclass
class StatusCollector:
    """Collects the answer."""

    role: str
    """``local``, ``host`` or ``viewer``."""
    parts: Sequence[StatusRows]
    """A viewer precedes its host."""
    pump: PumpSupervisor
    report: Callable[[], Awaitable[AuthorityReport]]
    warnings: Callable[[], list[str]]
    link: Callable[[], Awaitable[LinkStatus]] | None = field(default=None, kw_only=True)
    since: float = field(default_factory=time.time, kw_only=True)

    async def status(self) -> Status:
        """Everything for ``brokerctl status``."""
        report = await self.report()
        streams = {s.name: s for s in await self.pump.streams()}
        counted: dict[int, StreamCount] = {}
        sandboxes: dict[str, SandboxStatus] = {}
        for part in self.parts:
            await part.look()
            counted |= await part.worker_counts()
            for row in await part.sandboxes():
                shown = sandboxes.get(row.name)
                sandboxes[row.name] = row if shown is None else _joined(shown, row)
        return Status(
            version=__version__,
            role=self.role,
            pid=os.getpid(),
            since=self.since,
            monotonic=trio.current_time(),
            policy=report.policy,
            sandboxes=list(sandboxes.values()),
            leases=self.leases(),
            streams=[
                _stream(opening, began, streams, counted)
                for part in self.parts
                for opening, began in part.streams()
            ],
            processes=await _with_memory(
                [
                    *self._own_processes(report),
                    *(row for part in self.parts for row in part.processes()),
                ]
            ),
            tasks=trio.lowlevel.current_statistics().tasks_living
            + sum(part.tasks() for part in self.parts),
            pump=self._pump(list(streams.values())),
            audit=report.audit,
            link=None if self.link is None else await self.link(),
            warnings=[*report.warnings, *self.warnings()],
        )

    def leases(self) -> list[LeaseStatus]:
        """All live leases."""
        return [lease for part in self.parts for lease in part.leases()]

    def _pump(self, streams: list[StreamStatistics]) -> PumpStatus:
        numbers = self.pump.statistics()
        return PumpStatus(
            pid=numbers.pid,
            streams=numbers.streams,
            streams_total=numbers.streams + sum(numbers.ended.values()),
            bytes_total=sum(s.bytes_ab + s.bytes_ba for s in streams),
        )

    def _own_processes(self, report: AuthorityReport) -> list[ProcessStatus]:
        out = [process_status("broker", os.getpid())]
        if report.pid:
            out.append(process_status("authority", report.pid))
        pump = self.pump.statistics()
        out.append(process_status("pump", pump.pid, jail="seccomp"))
        out.append(process_status("helper fork server", self.pump.forks.pid))
        if report.shipper:
            out.append(process_status("shipper", report.shipper))
        if report.prompt:
            out.append(process_status("prompt", report.prompt, jail="seccomp"))
        return out


def _joined(shown: SandboxStatus, machine: SandboxStatus) -> SandboxStatus:
    """Return the row of a sandbox that viewer and host both know."""
    return msgspec.structs.replace(
        machine,
        state=shown.state if machine.state == "running" else machine.state,
        programs=shown.programs,
        devices=shown.devices,
        folders=shown.folders,
        limits=shown.limits,
        network=shown.network,
    )


def _stream(
    opening: Opening,
    began: float,
    numbers: Mapping[str, StreamStatistics],
    counted: Mapping[int, StreamCount],
) -> StreamStatus:
    live = numbers.get(str(opening.stream))
    claimed = counted.get(opening.stream)
    if live is None and claimed is not None:
        up, down = claimed.from_guest, claimed.to_guest
    else:
        up, down = (0, 0) if live is None else (live.bytes_ab, live.bytes_ba)
    return StreamStatus(
        stream=opening.stream,
        sandbox=opening.lease.sandbox,
        lease=opening.lease.id,
        service=opening.service,
        bytes_from_sandbox=up,
        bytes_to_sandbox=down,
        since=began,
        work=0.0 if claimed is None else claimed.work,
        mode="worker" if live is None else f"{live.mode_ab}/{live.mode_ba}",
    )


async def _with_memory(
    processes: list[ProcessStatus],
) -> list[ProcessStatus]:
    """The same with their memory, and the walls of those whose jail is not given."""
    # In a thread: the kernel walks every page of each process for it, and waits
    # for one that is changing its memory; streams must not wait as well.
    pids = [process.pid for process in processes]
    walls: dict[int, str] = {}
    memory: dict[int, int] = {}
    # guard: a process that is slow to measure delays no status
    with trio.move_on_after(_LOOK_SECONDS):
        look = partial(_look, pids, walls, memory)
        # guard: measuring leaves other work its threads
        await in_thread(look, abandon_on_cancel=True, limiter=_lookers)
    return [
        msgspec.structs.replace(
            process,
            memory=memory.get(process.pid, 0),
            jail=process.jail or walls.get(process.pid, ""),
        )
        for process in processes
    ]


def walls_of(pid: int) -> str:
    """Return what the kernel says about a process's jail: "namespaces seccomp", or "".

    A nested pid namespace represents the namespaces that are made together with it.
    See proc(5); "" for a process that has ended.
    """
    try:
        fields = status_fields(pid)
    except OSError:
        return ""  # it has ended: it is missing in the next status
    nested = len(fields.get("NSpid", ())) > 1
    filtered = fields.get("Seccomp") == ["2"]
    return " ".join(["namespaces"] * nested + ["seccomp"] * filtered)


def _look(pids: list[int], walls: dict[int, str], memory: dict[int, int]) -> None:
    walls.update((pid, walls_of(pid)) for pid in pids)
    for pid in pids:
        memory[pid] = read_memory(pid).proportional
