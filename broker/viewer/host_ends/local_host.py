"""The host process of one machine: starts it, reads its reports, ends with it."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import trio
from typing_extensions import override

from broker.core.errors import PeerError, VitrailError, sole
from broker.core.lease import Lease, Opening
from broker.core.names import LeaseId, ServiceName
from broker.core.stderr_log import log_stderr
from broker.helpers.forked_part import ForkedPart
from broker.helpers.process.spawn import send_signal
from broker.host_and_viewer.status_rows import StatusRows
from broker.ipc.control import api
from broker.ipc.control.method import AnyMethod, Owner
from broker.ipc.control.methods import TABLE
from broker.ipc.host_rows import HostRowsReport, StreamRow
from broker.viewer.broker import ViewerSide
from broker.viewer.host_ends.host_process import HostProcess
from broker.viewer.role import ViewerRole
from broker.viewer.viewer_status import ViewerRows
from broker.viewer.workers.pool import Workers

_NOTHING = HostRowsReport([], [], [], [], [], 0)


@dataclass
class HostProcessRows(StatusRows):
    """The host's part of the status, as its process reports it."""

    host: HostProcess
    report: HostRowsReport = field(default=_NOTHING)

    @override
    async def look(self) -> None:
        """Ask the host's process for its rows of the status; keep a failure as a warning."""
        try:
            self.report = await self.host.rows()
        except VitrailError as error:
            warning = f"the host process: {error.message}"
            self.report = HostRowsReport([], [], [], [], [warning], 0)

    @override
    async def sandboxes(self) -> list[api.SandboxStatus]:
        return self.report.sandboxes

    @override
    def leases(self) -> list[api.LeaseStatus]:
        return self.report.leases

    @override
    def streams(self) -> list[tuple[Opening, float]]:
        return [
            (_opening(row, announced.lease), row.began)
            for row in self.report.streams
            if (announced := self.host.pair.leases.get(LeaseId(row.lease)))
        ]

    @override
    def processes(self) -> list[api.ProcessStatus]:
        return self.report.processes

    @override
    def tasks(self) -> int:
        """Return the number of trio tasks that the host process last reported."""
        return self.report.tasks


def _opening(row: StreamRow, lease: Lease) -> Opening:
    return Opening(lease, ServiceName(row.service), row.stream, row.peer)


class LocalHost:
    """Implements ``viewer.broker.HostEnd``."""

    table: Mapping[str, AnyMethod] = MappingProxyType(
        {name: row for name, row in TABLE.items() if row.owner is not Owner.HOST}
    )
    link: Callable[[], Awaitable[api.LinkStatus]] | None = None

    def __init__(
        self, side: ViewerSide, sock: socket.socket, process: ForkedPart
    ) -> None:
        self._process = process
        self._ending = False
        self.host = HostProcess(sock, viewer=side.viewer, reload=side.authority.reload)
        self._rows = HostProcessRows(self.host)

    def rows(self, viewer: ViewerRole, workers: Workers) -> Sequence[StatusRows]:
        """See ``HostEnd``."""
        return [ViewerRows(viewer, workers), self._rows]

    def warnings(self) -> list[str]:
        """See ``HostEnd``."""
        return self._rows.report.warnings

    async def begin(self, nursery: trio.Nursery) -> None:
        """Start the host's tasks.

        Return once machines of an earlier broker are leased.
        """
        nursery.start_soon(self._run)
        nursery.start_soon(self._watch)
        await self.host.ready.wait()
        if self.host.problem is not None:
            self._ending = True
            raise self.host.problem

    async def end(self, stop_all: Callable[[], Awaitable[None]]) -> None:
        """Stop all machines and the host's process.  See ``HostEnd``."""
        await self.host.refuse_new()
        await stop_all()
        self._ending = True
        # The authority ends when its host has taken leave, too, and is waited for.
        await self.host.end()

    async def _run(self) -> None:
        """Serve the host's process; end this one if it ends unasked."""
        reason = "has ended"
        try:
            await self.host.run()
        except (PeerError, ExceptionGroup) as group:
            error = sole(group)
            if not isinstance(error, PeerError):
                raise
            reason = f"breaks the protocol: {error}"
        self._lost(reason)

    async def _watch(self) -> None:
        await self.host.pair.watch()
        if self.host.pair.live:
            self._lost("does not answer")

    def _lost(self, reason: str) -> None:
        """End this process at once, as if it were killed: its machines run on.

        The authority sees that, and records it.
        """
        if self._ending:
            return
        log_stderr(
            f"vitrail: the host process {reason}: the broker exits; machines continue to run"
        )
        # It may hang.
        self._kill()
        os._exit(1)

    def _kill(self) -> None:
        send_signal(self._process.pidfd)
        os.waitpid(self._process.pid, 0)
