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
from broker.ipc.host_rows import (
    CUT_STREAM,
    END_HOST,
    FOLDER_LOST,
    FORGET_FOLDERS,
    HOST_FAILED,
    HOST_READY,
    HOST_ROWS,
    LEASE_BEGUN,
    LEASE_ENDED,
    LEND_ARENA,
    MACHINE_STOPPED,
    MOUNT_FOLDER,
    OFFER_STREAM,
    REFUSE_NEW,
    RELEASE_FOLDER,
    STOP,
    STREAM_OVER,
    SUSPEND,
    UNMOUNT_FOLDER,
    FolderLost,
    HostFailed,
    HostRowsReport,
    LeaseBegun,
    LeaseEnded,
    MachineStopped,
    MountFolder,
    NamedLease,
    NamedMount,
    NamedStream,
    OfferStream,
    StopSandbox,
    SuspendSandbox,
)
from broker.ipc.host_viewer import HeldTask, StartedStatus, TaskStatus, Viewer
from broker.net.link.wire_types import Role
from broker.net.link_service.pair_end import PairEnd
from broker.viewer.devices.remote import DeviceReports, RemoteDevices
from broker.viewer.host_ends.host_starts import HostStart
from broker.wire.exchange import ServedCall
from broker.wire.row import Empty, serves


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
        await self.pair.call(RELEASE_FOLDER, NamedMount(self.number))

    async def lost(self) -> None:
        """See ``Mounted``."""
        await self.gone.wait()
        assert self.problem is not None
        raise self.problem


class HostProcess:
    """Accepts leases and streams of the host's process, and calls it."""

    unavailable = ""

    def __init__(
        self,
        sock: socket.socket,
        *,
        viewer: Callable[[], Viewer],
        reload: Callable[[], Awaitable[None]],
    ) -> None:
        """Set up the pair; ``reload`` refreshes the viewer's copy of the records."""
        self.ready = trio.Event()
        """Set when the host accepts calls, or cannot start."""
        self.problem: VitrailError | None = None
        """Why the host cannot start."""
        self.devices = RemoteDevices(lambda: self.pair, elsewhere="")
        self._viewer = viewer
        self._reload = reload
        self._streams: dict[int, HeldTask] = {}
        self._mounts: dict[int, MountedByHost] = {}
        self._last_mount = 0
        self._nursery: trio.Nursery | None = None
        self.pair = PairEnd(
            sock,
            Role.VIEWER,
            lambda pair: [self, DeviceReports(self.devices, pair)],
        )

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
        return await start.call()

    async def stop(self, lease: LeaseId, *, grace: float, reason: str) -> None:
        """See ``Machines``."""
        text = fit(reason, limits.LINK_TEXT_CHARACTERS)
        await self.pair.call(STOP, StopSandbox(lease, grace, text))

    async def suspend(self, lease: LeaseId, *, suspended: bool) -> None:
        """See ``Machines``."""
        await self.pair.call(SUSPEND, SuspendSandbox(lease, suspended))

    async def refuse_new(self) -> None:
        """Have the host lease nothing more: the broker is about to end."""
        await self.pair.call(REFUSE_NEW, Empty())

    async def end(self) -> None:
        """End what the host has left; it ends then."""
        await self.pair.call(END_HOST, Empty())

    async def rows(self) -> HostRowsReport:
        """Return the host's part of the status.  Raises VitrailError."""
        answer = await self.pair.peer.call_with_fds(HOST_ROWS, Empty())
        [fd] = answer.fds
        try:
            # guard: the host's rows are bounded
            if answer.value.size > pair_limits.PAIR_ROWS_BYTES:
                raise PeerError("the host sent a status that is too long")
            body = await sealed_memfd.take(fd, answer.value.size)
            return msgspec.json.decode(body, type=HostRowsReport)
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
        number = self._last_mount
        request = MountFolder(number, lease.id, folder.ticket)
        reply = await self.pair.call(MOUNT_FOLDER, request)
        mounted = MountedByHost(self.pair, number, os.fsdecode(reply.path), reply.place)
        self._mounts[number] = mounted
        try:
            yield mounted
        finally:
            del self._mounts[number]
            with trio.CancelScope(shield=True):
                state = await self.pair.call(UNMOUNT_FOLDER, NamedMount(number))
            mounted.kept = state.kept

    async def end_sandbox(self, lease: Lease, reason: str) -> None:
        """See ``FolderSource``."""
        await self.stop(lease.id, grace=1.0, reason=reason)

    async def forget(self, lease: Lease) -> bool:
        """See ``FolderSource``."""
        return (await self.pair.call(FORGET_FOLDERS, NamedLease(lease.id))).kept

    # -- what the host calls -----------------------------------------------------------

    @serves(LEASE_BEGUN)
    async def begin_lease(self, _: ServedCall[Empty], request: LeaseBegun) -> None:
        """Have the records read again; give the viewer a lease that the host began.

        Raises VitrailError.
        """
        lease = request.to_lease()
        # The host may lease by a record that was written a moment ago.
        await self._reload()
        await self._viewer().lease_begun(lease)

    @serves(LEASE_ENDED)
    async def end_lease(self, _: ServedCall[Empty], request: LeaseEnded) -> None:
        """Have the viewer end a lease; return when its streams are cut."""
        lease = take_lease_id(request.lease)
        await self._viewer().lease_ended(lease, printable(request.reason))

    @serves(LEND_ARENA)
    async def lend_arena(
        self, exchange: ServedCall[Empty], request: NamedLease
    ) -> None:
        """Give the viewer the memory where a guest leaves its pixels."""
        [fd] = exchange.fds
        await self._viewer().arena_lent(take_lease_id(request.lease), fd)

    @serves(MACHINE_STOPPED)
    async def note_stopped(self, _: ServedCall[Empty], request: MachineStopped) -> None:
        """Tell the viewer that a machine was stopped, or runs again."""
        lease, reason = take_lease_id(request.lease), printable(request.reason)
        await self._viewer().machine_stopped(lease, reason)

    @serves(FOLDER_LOST)
    async def note_folder_lost(self, _: ServedCall[Empty], request: FolderLost) -> None:
        """End the use of a mounted folder that is gone."""
        mounted = self._mounts.get(request.mount)
        if mounted is not None:
            mounted.problem = request.error.error()
            mounted.gone.set()

    @serves(HOST_READY)
    async def note_ready(self, _: ServedCall[Empty], __: Empty) -> None:
        """Let the broker's start go on: the host accepts calls."""
        self.ready.set()

    @serves(HOST_FAILED)
    async def note_failed(self, _: ServedCall[Empty], request: HostFailed) -> None:
        """Let the broker's start fail with the host's error."""
        self.problem = request.error.error()
        self.ready.set()

    @serves(OFFER_STREAM)
    async def accept_stream(
        self, exchange: ServedCall[Empty], offer: OfferStream
    ) -> None:
        """Accept a stream that the host offers, and start its task.

        Raises RefusedError.
        """
        with socket.socket(fileno=exchange.take_fd()) as untrusted_conn:
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
                await self.pair.call(STREAM_OVER, NamedStream(opening.stream))

    @serves(CUT_STREAM)
    async def cut_stream(self, _: ServedCall[Empty], request: NamedStream) -> None:
        """Cut a stream that was accepted; return when it has ended."""
        stream = self._streams.get(request.stream)
        if stream is not None:
            await stream.take_back("the host cut it")


def _refuse_untaken(taken: StartedStatus[None]) -> None:
    if not taken.called:
        raise RefusedError("the stream ended before the viewer accepted it")
