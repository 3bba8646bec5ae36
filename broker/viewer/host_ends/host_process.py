"""The host as the viewer has it on one machine: a process beside it.

Implements ``host_folders.Host`` by messages over a pair of sockets, and takes leases and
streams from there.  A host that was taken over may announce anything; the authority
knows only the leases that it has recorded.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import trio

from broker.core.decoding import UNREADABLE
from broker.core.errors import (
    InternalError,
    PeerError,
    RefusedError,
    VitrailError,
)
from broker.core.escape import fit, printable
from broker.core.launch_changes import NO_CHANGES, LaunchChanges
from broker.core.lease import Lease, Opening
from broker.core.limits import host_viewer as pair_limits
from broker.core.limits import link as limits
from broker.core.names import LeaseId, SandboxName, ServiceName, take_lease_id
from broker.core.services import NETWORK, PORTS, SSH_AGENT
from broker.core.stderr_log import log_exception
from broker.host_and_viewer.host_folders import GivenFolder
from broker.ipc import sealed_memfd
from broker.ipc.host_viewer import HeldTask, StartedStatus, TaskStatus, Viewer
from broker.net.host_pair import pair_messages as p
from broker.net.host_pair.pair_end import PairEnd
from broker.net.link import messages as m
from broker.net.link.wire_types import Role
from broker.net.link_service.far_end import LinkAnswer
from broker.viewer.devices.remote import RemoteDevices
from broker.viewer.host_ends.host_starts import HostStart, Starts


@dataclass(eq=False)
class MountedByHost:
    """A folder that the host's process has mounted: ``host_folders.Mounted``."""

    pair: PairEnd
    number: int
    path: str
    place: int | None
    kept: bool = False
    gone: trio.Event = field(default_factory=trio.Event)
    problem: VitrailError | None = None

    async def release(self) -> None:
        """See ``Mounted``."""
        await self.pair.ask(lambda n: p.ReleaseFolder(n, self.number))

    async def lost(self) -> None:
        """See ``Mounted``."""
        await self.gone.wait()
        assert self.problem is not None
        raise self.problem


class HostProcess:
    """Takes leases and streams of the host's process, and sends it orders."""

    unavailable = ""

    def __init__(
        self,
        sock: socket.socket,
        *,
        viewer: Callable[[], Viewer],
        reload: Callable[[], Awaitable[None]],
    ) -> None:
        """Set up the pair; ``reload`` refreshes the viewer's copy of the records."""
        self.pair = PairEnd(sock, Role.VIEWER, self._serve)
        self.ready = trio.Event()
        """Set when the host takes orders, or cannot start."""
        self.problem: VitrailError | None = None
        """Why the host cannot start."""
        self.devices = RemoteDevices(lambda: self.pair, elsewhere="")
        self._viewer = viewer
        self._reload = reload
        self._streams: dict[int, HeldTask] = {}
        self._starts = Starts()
        self._mounts: dict[int, MountedByHost] = {}
        self._last_mount = 0
        self._nursery: trio.Nursery | None = None

    @property
    def folders(self) -> HostProcess:
        """See ``Host``."""
        return self

    async def run(self, *, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the host's messages until its process ends.

        Raises PeerError on invalid ones.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await self.pair.run(task_status=task_status)
            nursery.cancel_scope.cancel()

    # -- host_folders.Host ------------------------------------------------------------

    async def start(
        self,
        record: SandboxName,
        *,
        progress: Callable[[str], None],
        changes: LaunchChanges = NO_CHANGES,
        for_sandbox: bool = False,
    ) -> Lease:
        """Have the host start a sandbox; return its lease.  See ``Machines``."""
        start = HostStart(self.pair, record, changes, for_sandbox, progress)
        return await self._starts.ask(start)

    async def stop(self, lease: LeaseId, *, grace: float, reason: str) -> None:
        """See ``Machines``."""
        text = fit(reason, limits.LINK_TEXT_CHARACTERS)
        await self.pair.ask(lambda n: p.StopLease(n, lease, grace, text))

    async def suspend(self, lease: LeaseId, *, suspended: bool) -> None:
        """See ``Machines``."""
        await self.pair.ask(lambda n: p.SuspendLease(n, lease, suspended))

    async def refuse_new(self) -> None:
        """Have the host lease nothing more: the broker is about to end."""
        await self.pair.ask(p.RefuseNew)

    async def end(self) -> None:
        """End what the host has left; it ends then."""
        await self.pair.ask(p.EndHost)

    async def rows(self) -> p.HostRowsReport:
        """Return the host's part of the status.  Raises VitrailError."""
        reply, fd = await self.pair.exchange(p.HostRowsAsked)
        try:
            assert isinstance(reply, p.HostRowsFile)
            # guard: the host's rows are bounded
            if reply.size > pair_limits.PAIR_ROWS_BYTES:
                raise PeerError("the host sent a status that is too long")
            body = await sealed_memfd.take(fd, reply.size)
            return msgspec.json.decode(body, type=p.HostRowsReport)
        except UNREADABLE as error:
            raise PeerError(f"the host sent an invalid status: {error}") from error
        finally:
            os.close(fd)

    # -- host_folders.FolderSource ---------------------------------------------------------

    @asynccontextmanager
    async def mounted(
        self, lease: Lease, folder: GivenFolder, *, write: bool
    ) -> AsyncIterator[MountedByHost]:
        """Have the host mount a folder while the block runs.  See ``FolderSource``.

        The host decides itself what may be written to.
        """
        del write
        self._last_mount += 1
        number, ticket = self._last_mount, folder.ticket
        reply = await self.pair.ask(
            lambda n: p.MountFolder(n, number, lease.id, ticket)
        )
        assert isinstance(reply, p.FolderMounted)
        mounted = MountedByHost(self.pair, number, os.fsdecode(reply.path), reply.place)
        self._mounts[number] = mounted
        try:
            yield mounted
        finally:
            del self._mounts[number]
            with trio.CancelScope(shield=True):
                state = await self.pair.ask(lambda n: p.UnmountFolder(n, number))
            assert isinstance(state, p.FolderState)
            mounted.kept = state.kept

    async def end_sandbox(self, lease: Lease, reason: str) -> None:
        """See ``FolderSource``."""
        await self.stop(lease.id, grace=1.0, reason=reason)

    async def forget(self, lease: Lease) -> bool:
        """See ``FolderSource``."""
        state = await self.pair.ask(lambda n: p.ForgetFolders(n, lease.id))
        assert isinstance(state, p.FolderState)
        return state.kept

    # -- what the host sends -----------------------------------------------------------

    async def _serve(self, request: m.LinkRequest, fd: int) -> LinkAnswer:
        """Handle one message of the host: streams, memory, leases, devices."""
        match request:
            case p.OfferStream():
                await self._offered(request, fd)
            case p.LendArena():
                try:
                    await self._viewer().arena_lent(take_lease_id(request.lease), fd)
                finally:
                    os.close(fd)
            case p.CutStream():
                await self._cut(request.stream)
            case p.MachineStopped():
                lease, reason = take_lease_id(request.lease), printable(request.reason)
                await self._viewer().machine_stopped(lease, reason)
            case m.LeaseBegun():
                await self._lease_begun(request.to_lease())
            case m.LeaseEnded():
                lease = take_lease_id(request.lease)
                await self._viewer().lease_ended(lease, printable(request.reason))
            case m.DevicesChanged() | m.DeviceEnded():
                await self.devices.serve(self.pair, request)
            case _:
                self._told(request)
        return LinkAnswer(m.RequestDone(request.request))

    def _told(self, request: m.LinkRequest) -> None:
        """Handle a message that the host's process sends unasked."""
        match request:
            case m.StartProgress():
                self._starts.report(self.pair, request)
            case p.FolderLost():
                mounted = self._mounts.get(request.mount)
                if mounted is not None:
                    mounted.problem = p.error_of(request.error)
                    mounted.gone.set()
            case p.HostReady():
                self.ready.set()
            case p.HostFailed():
                self.problem = p.error_of(request.error)
                self.ready.set()
            case _:
                raise InternalError(f"no handler for {request}")

    async def _lease_begun(self, lease: Lease) -> None:
        """Have the records read again; give the viewer a lease that the host began."""
        # The host may lease by a record that was written a moment ago.
        await self._reload()
        await self._viewer().lease_begun(lease)

    async def _offered(self, offer: p.OfferStream, fd: int) -> None:
        """Accept or refuse a stream that the host offers; start its task."""
        with socket.socket(fileno=fd) as untrusted_conn:
            announced = self.pair.leases.usable(LeaseId(offer.lease))
            service = ServiceName(offer.service)
            # guard: streams are of leases that were announced
            if announced is None:
                raise RefusedError("the lease was not announced to this viewer")
            # guard: the host names a service that there is
            if service not in PORTS and service not in {NETWORK, SSH_AGENT}:
                raise RefusedError("the host sent the name of an unknown service")
            # guard: each stream has a new number
            if offer.stream in self._streams or self._nursery is None:
                raise RefusedError("the host reused the number of a stream")
            opening = Opening(
                announced.lease, service, offer.stream, offer.peer, offer.direct
            )
            conn = socket.socket(fileno=untrusted_conn.detach())
        await self._nursery.start(self._carry, opening, conn)

    async def _carry(
        self, opening: Opening, conn: socket.socket, *, task_status: TaskStatus
    ) -> None:
        """Carry one stream of the host's; ``started`` when it is accepted."""
        stream = self._streams[opening.stream] = HeldTask()
        taken = StartedStatus(task_status)
        try:
            with stream.scope:
                await self._viewer().stream_opened(opening, conn, task_status=taken)
            _refuse_untaken(taken)
        except Exception as error:
            if not taken.called:
                raise
            log_exception(error)  # an internal error ends this stream, and no other
        finally:
            del self._streams[opening.stream]
            stream.over.set()
        if not stream.reason:
            with contextlib.suppress(VitrailError):
                await self.pair.ask(lambda n: p.StreamOver(n, opening.stream))

    async def _cut(self, number: int) -> None:
        stream = self._streams.get(number)
        if stream is not None:
            await stream.take_back("the host cut it")


def _refuse_untaken(taken: StartedStatus[None]) -> None:
    if not taken.called:
        raise RefusedError("the stream ended before the viewer accepted it")
