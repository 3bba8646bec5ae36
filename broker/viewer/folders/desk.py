"""Which sandbox has which directory of the user's.

Each shared folder is one block inside ``Permits.permit``: it is mounted after the
verdict, and unmounted when the permission ends (rules that changed, a time that is
over), when the user takes it back, and when the sandbox stops.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio
from msgspec import structs

from broker.authority.audit import event_log
from broker.authority.permit import Permit, Request
from broker.core.errors import RefusedError, VitrailError
from broker.core.escape import printable
from broker.core.files.opened_folder import (
    folder_argument,
    folder_object,
    overlap_error,
)
from broker.core.lease import Lease
from broker.core.limits import transfer as limits
from broker.core.names import LeaseId, ServiceName
from broker.core.services import BLOCK, FOLDER
from broker.core.stderr_log import isolated
from broker.host_and_viewer.host_folders import FolderSource, GivenFolder, Mounted
from broker.ipc.agent import AgentMount
from broker.ipc.audit import schema
from broker.ipc.host_viewer import TaskStatus
from broker.ipc.session.folder_orders import (
    GIVE_FOLDER,
    OPEN_FOLDER,
    OPEN_RECORD_FOLDER,
    SERVE_FOLDER,
    FoundFolder,
    GiveFolder,
    OpenFolder,
    OpenRecordFolder,
    ServeFolder,
)
from broker.viewer.authority.held_permit import HeldPermit, take_back_all
from broker.viewer.authority.interface import Permits
from broker.viewer.folders.guest_folders import GuestFolders
from broker.viewer.orders.session_orders import Begun, UserSession
from broker.viewer.sandboxes.named_lease import one_lease
from broker.wire.faults import HeldError
from broker.wire.row import Row
from policy.records.model import Record
from policy.records.places import has_folders

Notify = Callable[[str, str], None]
_RECORD_SECONDS = 5.0
"""How long a start waits for the folders of its record; a question takes longer."""
_ENDING_SECONDS = 3.0
"""How long after a folder's server a machine that ends may still have its lease."""


@dataclass(eq=False)
class SharedFolder(HeldPermit):
    """A directory that a sandbox has, or is about to have."""

    path: Path
    """Without links."""
    write: bool
    tag: str = ""
    """Of a disk, whose image ``path`` is; empty: it is a directory."""
    at: str = ""
    """Where the guest of a micro VM mounts it; empty: below /folders, or nowhere."""
    mounted: Mounted | None = None
    kept: bool = False
    """It was mounted in an attempt that failed, and a program may have kept it."""

    @property
    def name(self) -> str:
        """The directory's name in the sandbox, or the disk's."""
        return self.tag or self.path.name

    @property
    def service(self) -> ServiceName:
        """The service whose rules decide about it."""
        return BLOCK if self.tag else FOLDER


class FolderDesk:
    """All shared folders and the sandboxes that have them."""

    def __init__(
        self,
        *,
        source: FolderSource,
        decider: Permits,
        log: event_log.EventLog,
        leases: Callable[[], Iterable[Lease]],
        record: Callable[[Lease], Record | None],
        inside: Callable[[Lease], GuestFolders | None],
        session: UserSession,
        streamed: bool = False,
    ) -> None:
        """Set up; ``streamed``: guests connect to the viewer for their folders."""
        self._source = source
        self._decider = decider
        self._log = log
        self._leases = leases
        self._record = record
        self._inside = inside
        self._session = session
        self._streamed = streamed
        self._shared: list[SharedFolder] = []
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Run the tasks of shared folders until cancelled; then unmount them."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def shared(self) -> list[SharedFolder]:
        """Return the folders that are mounted in sandboxes, oldest first."""
        return [shared for shared in self._shared if shared.mounted is not None]

    def written(self) -> list[Path]:
        """Return the folders that sandboxes may write to: they may make links there."""
        mine = self.shared()
        return [one.path for one in mine if one.write and not one.tag]

    # -- on request --------------------------------------------------------------------

    async def share(
        self, path: str, sandbox: str, *, write: bool, warrant: bytes
    ) -> SharedFolder:
        """Share a directory with a running sandbox; return when it is mounted.

        ``warrant``: of the call that asks for it.  Raises RefusedError, UpstreamError.
        """
        lease = one_lease(sandbox, self._leases())
        if self._source.unavailable:
            raise RefusedError(self._source.unavailable)
        return await self._begin(OpenFolder(path, write), lease, warrant)

    async def unshare(self, name: str, sandbox: str, *, force: bool) -> SharedFolder:
        """Take a folder back from a sandbox; return when it is unmounted.

        ``name``: its name in the sandbox or its path here.  ``force``: a sandbox that
        has files of it open is ended.  Raises RefusedError.
        """
        # Also a sandbox that ends just now, while a folder of it is still mounted.
        known = [*self._leases(), *(shared.lease for shared in self.shared())]
        lease = one_lease(sandbox, {lease.id: lease for lease in known}.values())
        for shared in self.shared():
            if shared.lease.id == lease.id and name in {
                shared.name,
                str(shared.path),
            }:
                if not force and shared.mounted is not None:
                    await self._release(shared, shared.mounted)
                await shared.take_back("removed on request")
                return shared
        raise RefusedError(
            f"{printable(sandbox, 64)} has no shared folder '{printable(name, 200)}'",
            hint="to list the shared folders, run 'brokerctl share'",
        )

    async def _release(self, shared: SharedFolder, mounted: Mounted) -> None:
        guest = self._inside(shared.lease)
        if mounted.place is not None and guest is not None:
            await guest.unmount(mounted.place)
        await mounted.release()

    async def _begin(
        self, order: OpenFolder, lease: Lease, warrant: bytes = b""
    ) -> SharedFolder:
        assert self._nursery is not None
        shared: SharedFolder = await self._nursery.start(
            self._open, order, lease, warrant
        )
        return shared

    async def _open(
        self,
        order: OpenFolder,
        lease: Lease,
        warrant: bytes,
        *,
        task_status: trio.TaskStatus[SharedFolder],
    ) -> None:
        """Have a session child open a directory and hold it; share it."""
        order = structs.replace(order, linked=tuple(map(str, self.written())))
        row: Row[Any, FoundFolder] = OPEN_FOLDER
        tag = mount_point = ""
        if isinstance(order, OpenRecordFolder):
            row, tag = OPEN_RECORD_FOLDER, order.tag
            mount_point = self._place(lease, order)
        async with self._session.carrying_out(row, order, warrant=warrant) as opened:
            path = Path(os.fsdecode(opened.value.path))
            shared = SharedFolder(lease, path, order.write, tag, mount_point)
            self._refuse_more(shared)
            self._shared.append(shared)
            await self._hold(shared, opened, task_status)

    def _place(self, lease: Lease, order: OpenRecordFolder) -> str:
        """Return where the record of a sandbox mounts what an order opens."""
        record = self._record(lease)
        if record is None:
            return ""
        folders = record.viewer.folders
        if order.tag:
            found = [disk.at for disk in folders.disks if disk.tag == order.tag]
            return str(found[0] or "") if found else ""
        return str(folders.at(Path(order.path), write=order.write) or "")

    def _refuse_more(self, shared: SharedFolder) -> None:
        """Refuse a folder whose name is taken, one too many, or one in another.

        Raises RefusedError.
        """
        mine = [s for s in self._shared if s.lease.id == shared.lease.id]
        if any(other.name == shared.name for other in mine):
            raise RefusedError(
                f"cannot share another folder as '{shared.name}': {shared.lease.sandbox} already "
                "has a folder of that name",
                hint="to end the sharing of that folder, run 'brokerctl unshare "
                f"{shared.lease.sandbox} {shared.name}'",
            )
        for other in mine:
            reader, writer = (other, shared) if shared.write else (shared, other)
            # guard: a folder to read is in no folder to change while both are shared
            if writer.write > reader.write and reader.path.is_relative_to(writer.path):
                raise overlap_error(shared.lease.sandbox, reader.path, writer.path)
        if len(mine) >= limits.FOLDERS_PER_SANDBOX:
            raise RefusedError(
                f"{shared.lease.sandbox} already has {limits.FOLDERS_PER_SANDBOX} shared folders, "
                "the limit",
                hint="to end the sharing of a folder, run 'brokerctl unshare "
                f"{shared.lease.sandbox} FOLDER'",
            )

    # -- the life of one --------------------------------------------------------------

    async def _hold(
        self,
        shared: SharedFolder,
        opened: Begun[FoundFolder],
        status: trio.TaskStatus[SharedFolder],
    ) -> None:
        """Hold one folder in a sandbox by a permit; ``started`` when it is mounted."""
        carry = partial(self._carry, shared, opened)
        try:
            await shared.hold(self._decider, request_of(shared), carry, status)
        except HeldError:
            shared.kept = True
            raise
        finally:
            self._shared.remove(shared)
            self._end_keeper(shared)

    def _end_keeper(self, shared: SharedFolder) -> None:
        """Stop a sandbox that keeps files of an unmounted folder open."""
        assert self._nursery is not None
        mounted = shared.mounted
        kept = shared.kept if mounted is None else mounted.kept
        # guard: a folder that is held ends its sandbox
        if kept:
            reason = f"the sandbox kept files of the folder {shared.name} open"
            self._nursery.start_soon(self._end_sandbox, shared.lease, reason)

    async def _end_sandbox(self, lease: Lease, reason: str) -> None:
        """Have the host end a sandbox whose folder cannot be taken back."""
        # guard: a sandbox that cannot be ended ends no other's folders
        with isolated():
            await self._source.end_sandbox(lease, reason)

    async def _carry(
        self,
        shared: SharedFolder,
        opened: Begun[FoundFolder],
        permit: Permit,
        status: trio.TaskStatus[SharedFolder],
    ) -> None:
        """Write a folder's events, have the host mount it, and wait for its end.

        The folder's session child gives it to the host; a machine's agent mounts it.
        Sets the folder's fields ``mounted`` and ``reason``.
        """
        began = trio.current_time()
        about = event_log.of(shared.lease)
        path = printable(str(shared.path), 400)
        await self._log.require(
            schema.FolderShared(
                **about, service=shared.service, object=path, write=shared.write
            )
        )
        try:
            given = await give(shared.path, opened, permit.warrant)
            async with (
                opened.held(permit.renewed),
                self._source.mounted(
                    shared.lease, given, write=shared.write
                ) as mounted,
                self._in_guest(shared, mounted),
            ):
                shared.mounted = mounted
                status.started(shared)
                await mounted.lost()
        except VitrailError as error:
            # guard: the user is notified of a folder that ended by itself
            if shared.mounted is not None and not isinstance(error, RefusedError):
                assert self._nursery is not None
                self._nursery.start_soon(self._report_loss, shared, error.message)
            shared.reason = shared.reason or error.message
            raise
        finally:
            with trio.CancelScope(shield=True):
                await self._log.note(
                    schema.FolderUnshared(
                        **about,
                        service=shared.service,
                        object=path,
                        outcome="failed" if shared.mounted is None else "unmounted",
                        reason=shared.reason or "its permission was revoked",
                        seconds=trio.current_time() - began,
                    )
                )

    async def _report_loss(self, shared: SharedFolder, reason: str) -> None:
        """Report a folder that ended by itself in a notification and in the status."""
        await trio.sleep(_ENDING_SECONDS)
        lease = shared.lease
        # A machine that ends takes the servers of its folders with it.
        if lease.id not in {active.id for active in self._leases()}:
            return
        name, reason = printable(shared.name, 200), printable(reason, 600)
        text = f"the folder {name} is no longer shared: {reason}; to share it again, stop the sandbox and start it again"
        if (guest := self._inside(lease)) is not None:
            guest.warn(text)
        self._decider.notify(f"Vitrail: {lease.sandbox} lost a shared folder", text)

    @asynccontextmanager
    async def _in_guest(
        self, shared: SharedFolder, mounted: Mounted
    ) -> AsyncIterator[None]:
        """Have the agent of a micro VM mount the folder while the block runs."""
        guest = self._inside(shared.lease)
        if mounted.place is None or guest is None:
            yield
            return
        try:
            await guest.mount(
                AgentMount(
                    mounted.place,
                    shared.name,
                    shared.write,
                    stream=self._streamed,
                    at=shared.at,
                    disk=bool(shared.tag),
                )
            )
            yield
        finally:
            with trio.CancelScope(shield=True):
                await guest.revoke(mounted.place)

    # -- with the sandbox --------------------------------------------------------------

    async def lease_begun(self, lease: Lease) -> None:
        """Share the folders of a record with its sandbox, which is about to run."""
        kept = await self._source.forget(lease)
        record = self._record(lease)
        if self._nursery is None:
            return
        # guard: a folder that is held after a crash ends its sandbox
        if kept:
            reason = "the sandbox kept files open in folders that an earlier broker had shared"
            self._nursery.start_soon(self._end_sandbox, lease, reason)
            return
        if record is None or self._source.unavailable:
            return
        folders, guest = record.viewer.folders, self._inside(lease)
        if folders.memory and guest is not None and has_folders(record.host.launch):
            guest.have_memory(folders.memory)
        wanted = [(path, False, "") for path in folders.read_only]
        wanted += [(path, True, "") for path in folders.read_write]
        wanted += [(disk.source, disk.write, disk.tag) for disk in folders.disks]
        with trio.move_on_after(_RECORD_SECONDS):
            async with trio.open_nursery() as waits:
                for path, write, tag in wanted:
                    done = trio.Event()
                    order = OpenRecordFolder(
                        str(path), write, record=record.name, tag=tag
                    )
                    self._nursery.start_soon(self._of_record, order, lease, done)
                    waits.start_soon(done.wait)

    async def _of_record(
        self, order: OpenRecordFolder, lease: Lease, done: trio.Event
    ) -> None:
        """Share one folder or disk of a record; notify the user of a failure."""
        try:
            if order.tag and self._streamed:
                raise RefusedError("a sandbox of another machine cannot have a disk")
            await self._begin(order, lease)
        except (VitrailError, OSError) as error:
            self._decider.notify(
                f"Vitrail: cannot share {printable(order.path, 200)} with {lease.sandbox}",
                printable(str(error), 400),
            )
        finally:
            done.set()

    async def lease_ended(self, lease: LeaseId) -> None:
        """Take a stopped sandbox's folders back."""
        # guard: folders end with the sandbox
        await take_back_all(self._shared, lease)


async def give(path: Path, opened: Begun[FoundFolder], warrant: bytes) -> GivenFolder:
    """Have the session child give the opened folder to the host."""
    answer = await opened.more(GIVE_FOLDER, GiveFolder(), warrant=warrant)

    async def serve(conn: int) -> None:
        try:
            await opened.more(SERVE_FOLDER, ServeFolder(), [conn])
            await opened.wait()
        finally:
            await opened.end()

    return GivenFolder(path, answer.value.ticket, serve)


def request_of(shared: SharedFolder) -> Request:
    """Return the permit request for a shared folder."""
    return Request(
        lease=shared.lease,
        service=shared.service,
        argument=folder_argument(shared.name),
        about=folder_object(shared.path),
        settled=True,
        write=shared.write,
        counts_bytes=False,
    )
