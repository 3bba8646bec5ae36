"""The status of a broker, joined from the rows of its parts: host, viewer or both."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import trio

from broker import __version__
from broker.core.authority_report import AuthorityReport
from broker.core.lease import Opening
from broker.host_and_viewer.measured_rows import Measure, with_memory
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
from broker.ipc.pump import StreamStatistics


@dataclass
class StatusCollector:
    """Collects the answer."""

    role: str
    """``local``, ``host`` or ``viewer``."""
    parts: Sequence[StatusRows]
    """A viewer precedes its host."""
    pump: PumpSupervisor
    report: Callable[[], Awaitable[AuthorityReport]]
    measure: Measure
    warnings: Callable[[], Awaitable[list[str]]]
    link: Callable[[], Awaitable[LinkStatus]] | None = field(default=None, kw_only=True)
    since: float = field(default_factory=time.time, kw_only=True)

    async def status(self) -> Status:
        """Collect the status of host and viewer for ``brokerctl status``."""
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
        rows = [
            *self._own_processes(report),
            *(row for part in self.parts for row in part.processes()),
        ]
        warnings = list(report.warnings)

        async def warn() -> None:
            warnings.extend(await self.warnings())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(warn)
            rows = await with_memory(rows, self.measure)
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
            processes=rows,
            tasks=trio.lowlevel.current_statistics().tasks_living
            + sum(part.tasks() for part in self.parts),
            pump=self._pump(list(streams.values())),
            audit=report.audit,
            link=None if self.link is None else await self.link(),
            warnings=warnings,
        )

    def leases(self) -> list[LeaseStatus]:
        """All live leases."""
        return [lease for part in self.parts for lease in part.leases()]

    def _pump(self, streams: list[StreamStatistics]) -> PumpStatus:
        """Return the pump's row of the status."""
        numbers = self.pump.statistics()
        return PumpStatus(
            pid=numbers.pid,
            streams=numbers.streams,
            streams_total=numbers.streams + sum(numbers.ended.values()),
            bytes_total=sum(s.bytes_ab + s.bytes_ba for s in streams),
        )

    def _own_processes(self, report: AuthorityReport) -> list[ProcessStatus]:
        """Return the rows of the broker's own processes."""
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
    """Join the rows of a sandbox that viewer and host both know."""
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
    """Return a stream's row of the status."""
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
