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
from broker.host.devices.link import DeviceRequests
from broker.host.folders.folder_mounts import FolderHost
from broker.host.folders.folder_requests import FolderRequests
from broker.host.folders.given import GivenFolders
from broker.host.lease_requests import start_for_viewer, withdraw
from broker.host.role import HostRole
from broker.ipc.host_viewer import TaskStatus
from broker.ipc.sealed_memfd import sealed
from broker.net.hangup import given
from broker.net.host_pair import pair_messages as p
from broker.net.host_pair.pair_end import PairEnd
from broker.net.link import messages as m
from broker.net.link.wire_types import Role
from broker.net.link_service.far_end import LinkAnswer


@dataclass(frozen=True)
class _Host:
    """What carries the viewer's requests out, once it is there."""

    role: HostRole
    devices: DeviceRequests
    mounts: FolderRequests
    reload: Callable[[], Awaitable[None]]


class ViewerProcess:
    """Sends the viewer leases and streams, and serves its requests."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        rows: Callable[[], Awaitable[p.HostRowsReport]],
        end: Callable[[], Awaitable[None]],
    ) -> None:
        """Set up the end; ``rows``: of the status; ``end``: ends all leases."""
        self.pair = PairEnd(sock, Role.HOST, self._answer)
        self._rows = rows
        self._end = end
        self._streams: dict[int, trio.Event] = {}
        self._host: _Host | None = None

    async def run(self) -> None:
        """Receive until the viewer's process ends.  Raises PeerError when it lies."""
        await self.pair.run()

    async def serve(
        self,
        role: HostRole,
        folders: FolderHost,
        given: GivenFolders,
        reload: Callable[[], Awaitable[None]],
        *,
        task_status: TaskStatus = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve the viewer's requests (starts, devices, folders) until cancelled.

        ``reload``: of the host's copy of the records.
        """
        devices = DeviceRequests(lambda: role.devices, lambda: self.pair)
        mounts = FolderRequests(folders, given, lambda: self.pair)
        async with trio.open_nursery() as nursery:
            await nursery.start(devices.run)
            await nursery.start(mounts.run)
            self._host = _Host(role, devices, mounts, reload)
            task_status.started()
            await trio.sleep_forever()

    # -- host_viewer.Viewer --------------------------------------------------------

    async def lease_begun(self, lease: Lease) -> None:
        """Announce a lease to the viewer.  See ``Viewer``."""
        try:
            await self.pair.ask(lambda n: m.LeaseBegun.of(n, lease, ""))
        except BaseException:
            # The host withdraws nothing that the viewer has refused, and the sandbox's
            # next lease is to be announced.
            with trio.CancelScope(shield=True), contextlib.suppress(VitrailError):
                await withdraw(self.pair, lease.id, "not taken")
            raise

    async def arena_lent(self, lease: LeaseId, fd: int) -> None:
        """See ``Viewer``."""
        await self.pair.ask(lambda n: p.LendArena(n, lease), fd)

    async def machine_stopped(self, lease: LeaseId, reason: str) -> None:
        """See ``Viewer``."""
        reason = fit(reason, limits.LINK_TEXT_CHARACTERS)
        await self.pair.ask(lambda n: p.MachineStopped(n, lease, reason))

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
                await self.pair.ask(lambda n: _offer(n, opening), conn.fileno())
            task_status.started()
            try:
                await over.wait()
            except trio.Cancelled:
                with trio.CancelScope(shield=True), contextlib.suppress(VitrailError):
                    # guard: a stream that is cut has ended at the viewer's
                    await self.pair.ask(lambda n: p.CutStream(n, opening.stream))
                raise
        finally:
            del self._streams[opening.stream]

    # -- what the viewer asks --------------------------------------------------------

    async def _answer(self, request: m.LinkRequest, fd: int) -> LinkAnswer:
        """Answer a request of the viewer's process; a start reads the records again."""
        del fd  # the viewer's messages have none
        number, host = request.request, self._host
        if host is None:
            raise UpstreamError("the host process is not ready")
        match request:
            case m.StartSandbox():
                # The viewer may name a record that was written a moment ago.
                await host.reload()
                lease = await start_for_viewer(self.pair, host.role, request)
                return LinkAnswer(m.SandboxStarted(number, lease.id))
            case p.HostRowsAsked():
                body = msgspec.json.encode(await self._rows())
                return LinkAnswer(p.HostRowsFile(number, len(body)), sealed([body]))
            case m.DevicesAsked() | m.DeviceAttach() | m.DeviceDetach():
                return LinkAnswer(await host.devices.serve(self.pair, request))
            case p.SuspendLease():
                lease_id = take_lease_id(request.lease)
                await host.role.suspend(lease_id, suspended=request.suspended)
                return LinkAnswer(m.RequestDone(number))
            case p.StreamOver() | p.StopLease() | p.RefuseNew() | p.EndHost():
                await self._end_of(host, request)
                return LinkAnswer(m.RequestDone(number))
            case _:
                return await host.mounts.serve(request)

    async def _end_of(
        self,
        host: _Host,
        request: p.StreamOver | p.StopLease | p.RefuseNew | p.EndHost,
    ) -> None:
        """Handle the viewer's message that ends a stream, a sandbox or the broker."""
        match request:
            case p.StreamOver():
                over = self._streams.get(request.stream)
                if over is not None:
                    over.set()
            case p.StopLease():
                lease, reason = take_lease_id(request.lease), request.reason
                await host.role.stop(lease, grace=request.grace, reason=reason)
            case p.RefuseNew():
                host.role.refuse_new()
            case p.EndHost():
                await self._end()


def _offer(number: int, opening: Opening) -> p.OfferStream:
    """Return the message that offers a stream to the viewer."""
    return p.OfferStream(
        number,
        opening.lease.id,
        opening.service,
        opening.stream,
        fit(opening.peer, limits.LINK_TEXT_CHARACTERS),
        opening.direct,
    )
