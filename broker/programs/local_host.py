"""The host's process of ``vitrail-local``: machines, leases and doors.

It has no code of viewer and pump.  Machines of an earlier broker are leased again before
the viewer is told that the host is ready.
"""

from __future__ import annotations

import contextlib
import os
import socket

import trio

from broker.authority.options import Options
from broker.core.errors import PeerError, VitrailError, sole
from broker.core.stderr_log import log_stderr
from broker.helpers.process.fork_handle import ForkServerHandle
from broker.host.folders.folder_mounts import FolderHost
from broker.host.folders.given import GivenFolders
from broker.host.host_status import measure
from broker.host.launches import LaunchControl, Launches
from broker.host.part import HostPart
from broker.host.viewer_process import ViewerProcess
from broker.host_and_viewer.authority_handle import AuthorityHandle
from broker.host_and_viewer.foundation import Foundation
from broker.host_and_viewer.lease_listing import LeaseListing
from broker.host_and_viewer.log_client import LogClient
from broker.host_and_viewer.measured_rows import with_memory
from broker.host_and_viewer.open_authority import open_authority, serve_calls
from broker.host_and_viewer.status_rows import process_status
from broker.ipc import event_loop
from broker.ipc.control.authority_methods import AUTHORITY_METHODS
from broker.ipc.control.host_methods import HOST_METHODS
from broker.ipc.control.launch_methods import LAUNCH_METHODS
from broker.ipc.host_rows import (
    HOST_FAILED,
    HOST_READY,
    HostFailed,
    HostRowsReport,
    StreamRow,
)
from broker.wire.call_messages import ErrorReport
from broker.wire.row import Empty


def run_local_host(
    authority: AuthorityHandle,
    options: Options,
    sock: socket.socket,
    acceptors: ForkServerHandle,
    folders: socket.socket,
) -> None:
    """Run the host until the viewer's process has it end, or ends.

    ``folders``: where it receives those that sandboxes may have.
    """
    event_loop.run(_LocalHost(authority, options, sock, acceptors, folders).run)


class _LocalHost:
    def __init__(
        self,
        handle: AuthorityHandle,
        options: Options,
        sock: socket.socket,
        acceptors: ForkServerHandle,
        given: socket.socket,
    ) -> None:
        """Set up the host's process; ``given``: where it receives folders."""
        self._handle = handle
        self._acceptors = acceptors
        self._options = options
        self._viewer = ViewerProcess(
            sock, given=GivenFolders(given), rows=self._rows, end=self._end
        )
        self._told_to_end = trio.Event()
        self._ended = trio.Event()
        self._host: HostPart | None = None
        self._launches: Launches | None = None

    async def run(self) -> None:
        """Run to the end; a failed start is the viewer's to report."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._attend_viewer)
            try:
                await self._serve_authority()
            except (VitrailError, ExceptionGroup) as group:
                error = sole(group)
                if not isinstance(error, VitrailError):
                    raise
                await self._failed(error)
            nursery.cancel_scope.cancel()

    async def _attend_viewer(self) -> None:
        """Serve the viewer's process; end this one at once when it ends unasked."""
        try:
            await self._viewer.run()
        except (PeerError, ExceptionGroup) as group:
            error = sole(group)
            if not isinstance(error, PeerError):
                raise
            log_stderr(f"vitrail: the viewer's process breaks the protocol: {error}")
        # A viewer that ended has said why, or the authority does.
        if not self._ended.is_set():
            os._exit(1)  # as if it were killed: machines run on

    async def _failed(self, error: VitrailError) -> None:
        failed = HostFailed(ErrorReport.of(error))
        with contextlib.suppress(VitrailError):
            await self._viewer.pair.call(HOST_FAILED, failed)
        os._exit(1)

    async def _serve_authority(self) -> None:
        async with open_authority(self._handle, "host", LogClient) as log:
            await self._serve(log)

    async def _serve(self, log: LogClient) -> None:
        """Set up the host's parts, and serve them until the viewer ends them."""
        ground = Foundation("local", self._options, log, log)
        self._host = host = HostPart(
            ground, self._viewer, self._acceptors, alarm=log.notify
        )
        self._launches = launches = Launches(
            ground.paths,
            host.role,
            log,
            records=lambda: log.now,
            reload=log.reload,
            switches=host.switches,
        )
        folders = FolderHost(host.role, ground.paths.runtime)
        parts = [
            LeaseListing(host.rows.leases),
            host.leasing,
            host.networks,
            LaunchControl(launches),
        ]
        async with trio.open_nursery() as nursery:
            await nursery.start(self._viewer.serve, host.role, folders, log.reload)
            await host.run(nursery)
            await host.adopt(launches)
            await nursery.start(launches.run)
            await nursery.start(
                serve_calls,
                self._handle,
                "host",
                "local",
                parts,
                {**HOST_METHODS, **LAUNCH_METHODS, **AUTHORITY_METHODS},
            )
            await self._viewer.pair.call(HOST_READY, Empty())
            await self._told_to_end.wait()
            await host.leasing.end()
            nursery.cancel_scope.cancel()
        self._ended.set()

    async def _end(self) -> None:
        self._told_to_end.set()
        await self._ended.wait()

    async def _rows(self) -> HostRowsReport:
        """Return the host's rows for ``brokerctl status``."""
        host, launches = self._host, self._launches
        assert host is not None
        assert launches is not None
        rows = host.rows
        return HostRowsReport(
            sandboxes=await rows.sandboxes(),
            leases=rows.leases(),
            streams=[
                StreamRow(o.lease.id, o.service, o.stream, o.peer, began)
                for o, began in rows.streams()
            ],
            processes=await with_memory(
                [process_status("host", os.getpid()), *rows.processes()], measure
            ),
            warnings=[*host.warnings(), *launches.warnings[-10:]],
            tasks=trio.lowlevel.current_statistics().tasks_living,
        )
