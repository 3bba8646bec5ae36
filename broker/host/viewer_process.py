"""The viewer as the host has it on one machine: a process beside it.

Implements ``host_viewer.Viewer`` by messages over a pair of sockets, and serves what the
viewer asks for, within the host's own records.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
import trio

from broker.core.errors import UpstreamError, VitrailError
from broker.core.escape import fit
from broker.core.lease import Lease, Opening
from broker.core.limits import link as limits
from broker.core.names import LeaseId, take_lease_id
from broker.host.devices.link import DeviceCalls, DeviceRequests
from broker.host.folders.folder_mounts import FolderHost
from broker.host.folders.folder_requests import FolderRequests
from broker.host.folders.given import GivenFolders
from broker.host.lease_requests import start_for_viewer, withdraw
from broker.host.role import HostRole
from broker.ipc.host_rows import (
    CUT_STREAM,
    END_HOST,
    HOST_ROWS,
    LEASE_BEGUN,
    LEND_ARENA,
    MACHINE_STOPPED,
    OFFER_STREAM,
    REFUSE_NEW,
    START,
    STOP,
    STREAM_OVER,
    SUSPEND,
    HostRowsFile,
    HostRowsReport,
    LeaseBegun,
    MachineStopped,
    NamedLease,
    NamedStream,
    OfferStream,
    SandboxStarted,
    StartSandbox,
    StopSandbox,
    SuspendSandbox,
)
from broker.ipc.host_viewer import TaskStatus
from broker.ipc.sealed_memfd import sealed
from broker.net.hangup import given
from broker.net.link.wire_types import Role
from broker.net.link_service.pair_end import PairEnd
from broker.wire.exchange import ServedCall
from broker.wire.row import Empty, serves


@dataclass(frozen=True)
class _Host:
    """What carries the viewer's requests out, once it is there."""

    role: HostRole
    folders: FolderHost
    reload: Callable[[], Awaitable[None]]


class ViewerProcess:
    """Sends the viewer leases and streams, and serves its requests."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        given: GivenFolders,
        rows: Callable[[], Awaitable[HostRowsReport]],
        end: Callable[[], Awaitable[None]],
    ) -> None:
        """Set up the end; ``rows``: of the status; ``end``: ends all leases."""
        self._rows = rows
        self._end = end
        self._streams: dict[int, trio.Event] = {}
        self._host: _Host | None = None
        self._devices = DeviceRequests(
            lambda: self._ready().role.devices, lambda: self.pair
        )
        self._folders = FolderRequests(
            lambda: self._ready().folders, given, lambda: self.pair
        )
        self.pair = PairEnd(
            sock,
            Role.HOST,
            lambda pair: [self, DeviceCalls(self._devices, pair), self._folders],
        )

    async def run(self) -> None:
        """Serve until the viewer's process ends.  Raises PeerError for an invalid message."""
        await self.pair.run()

    async def serve(
        self,
        role: HostRole,
        folders: FolderHost,
        reload: Callable[[], Awaitable[None]],
        *,
        task_status: TaskStatus = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve the viewer's requests (starts, devices, folders) until cancelled.

        ``reload``: of the host's copy of the records.
        """
        self._host = _Host(role, folders, reload)
        async with trio.open_nursery() as nursery:
            await nursery.start(self._devices.run)
            await nursery.start(self._folders.run)
            task_status.started()
            await trio.sleep_forever()

    # -- host_viewer.Viewer --------------------------------------------------------

    async def lease_begun(self, lease: Lease) -> None:
        """Announce a lease to the viewer.  See ``Viewer``."""
        try:
            await self.pair.call(LEASE_BEGUN, LeaseBegun.of(lease, ""))
        except BaseException:
            # The host withdraws nothing that the viewer has refused, and the sandbox's
            # next lease is to be announced.
            with trio.CancelScope(shield=True), contextlib.suppress(VitrailError):
                await withdraw(self.pair, lease.id, "not taken")
            raise

    async def arena_lent(self, lease: LeaseId, fd: int) -> None:
        """See ``Viewer``."""
        await self.pair.call(LEND_ARENA, NamedLease(lease), [fd])

    async def machine_stopped(self, lease: LeaseId, reason: str) -> None:
        """See ``Viewer``."""
        reason = fit(reason, limits.LINK_TEXT_CHARACTERS)
        await self.pair.call(MACHINE_STOPPED, MachineStopped(lease, reason))

    async def lease_ended(self, lease: LeaseId, reason: str) -> None:
        """See ``Viewer``."""
        await withdraw(self.pair, lease, reason)

    async def stream_opened(
        self, opening: Opening, conn: socket.socket, *, task_status: TaskStatus
    ) -> None:
        """Pass a stream's socket to the viewer's process; wait for its end."""
        over = self._streams[opening.stream] = trio.Event()
        try:
            with given(conn):
                offer = OfferStream(
                    opening.lease.id,
                    opening.service,
                    opening.stream,
                    fit(opening.peer, limits.LINK_TEXT_CHARACTERS),
                    opening.direct,
                )
                await self.pair.call(OFFER_STREAM, offer, [conn.fileno()])
            task_status.started()
            try:
                await over.wait()
            except trio.Cancelled:
                with trio.CancelScope(shield=True), contextlib.suppress(VitrailError):
                    # guard: a stream that is cut has ended at the viewer's
                    await self.pair.call(CUT_STREAM, NamedStream(opening.stream))
                raise
        finally:
            del self._streams[opening.stream]

    # -- what the viewer calls -------------------------------------------------------

    def _ready(self) -> _Host:
        """Return the host's parts.  Raises UpstreamError before they are there."""
        if self._host is None:
            raise UpstreamError("the host process is not ready")
        return self._host

    @serves(START)
    async def start(
        self, exchange: ServedCall[SandboxStarted], request: StartSandbox
    ) -> SandboxStarted:
        """Read the records again; start a sandbox.  Raises VitrailError."""
        host = self._ready()
        # The viewer may name a record that was written a moment ago.
        await host.reload()
        return await start_for_viewer(exchange, host.role, request)

    @serves(STOP)
    async def stop(self, _: ServedCall[Empty], request: StopSandbox) -> None:
        """End a sandbox; return when it is gone.  Raises VitrailError."""
        lease, reason = take_lease_id(request.lease), request.reason
        await self._ready().role.stop(lease, grace=request.grace, reason=reason)

    @serves(SUSPEND)
    async def suspend(self, _: ServedCall[Empty], request: SuspendSandbox) -> None:
        """Stop a sandbox's programs, or let them run again.  Raises VitrailError."""
        lease = take_lease_id(request.lease)
        await self._ready().role.suspend(lease, suspended=request.suspended)

    @serves(STREAM_OVER)
    async def note_stream_over(
        self, _: ServedCall[Empty], request: NamedStream
    ) -> None:
        """End a stream that has ended at the viewer's."""
        over = self._streams.get(request.stream)
        if over is not None:
            over.set()

    @serves(HOST_ROWS)
    async def report_rows(
        self, exchange: ServedCall[HostRowsFile], _: Empty
    ) -> HostRowsFile:
        """Return the host's rows of the status, in a sealed file."""
        self._ready()
        body = msgspec.json.encode(await self._rows())
        exchange.give_fd(sealed([body]))
        return HostRowsFile(len(body))

    @serves(REFUSE_NEW)
    async def refuse_new(self, _: ServedCall[Empty], __: Empty) -> None:
        """Lease nothing more."""
        self._ready().role.refuse_new()

    @serves(END_HOST)
    async def end_host(self, _: ServedCall[Empty], __: Empty) -> None:
        """End what is left; return when there is no lease."""
        self._ready()
        await self._end()
