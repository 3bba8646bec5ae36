"""The host's folders for a viewer in another process of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from broker.core import limits
from broker.core.errors import (
    InternalError,
    RefusedError,
    UpstreamError,
    VitrailError,
)
from broker.core.files.opened_folder import OpenedFolder
from broker.core.lease import Lease
from broker.core.limits import transfer as transfer_limits
from broker.core.names import take_lease_id
from broker.core.stderr_log import isolated, log_exception
from broker.helpers.process.spawn import wait_ended
from broker.host.folders.folder_mounts import FolderHost
from broker.host.folders.given import GivenFolders
from broker.host_and_viewer.host_folders import Mounted
from broker.ipc.host_rows import (
    FOLDER_LOST,
    FORGET_FOLDERS,
    MOUNT_FOLDER,
    RELEASE_FOLDER,
    UNMOUNT_FOLDER,
    FolderLost,
    FolderMounted,
    FolderState,
    MountFolder,
    NamedLease,
    NamedMount,
)
from broker.ipc.host_viewer import HeldTask, TaskStatus
from broker.net.link_service.pair_end import PairEnd
from broker.wire.call_messages import ErrorReport
from broker.wire.exchange import ServedCall
from broker.wire.row import Empty, serves


@dataclass(eq=False)
class _Held(HeldTask):
    """A folder that is mounted for the viewer, or about to be."""

    lease: Lease
    folder: OpenedFolder
    write: bool
    mounted: Mounted | None = None
    watch: trio.CancelScope = field(default_factory=trio.CancelScope)
    """Of the task that waits for the end of its permission."""


class FolderRequests:
    """Serves a viewer's requests about folders."""

    def __init__(
        self,
        source: Callable[[], FolderHost],
        given: GivenFolders,
        pair: Callable[[], PairEnd],
    ) -> None:
        """Set up service of a viewer's requests; ``source`` may raise UpstreamError."""
        self._source_of = source
        self._given = given
        self._pair = pair
        self._held: dict[int, _Held] = {}
        self._nursery: trio.Nursery | None = None

    @property
    def _source(self) -> FolderHost:
        return self._source_of()

    async def run(self, *, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the folders that the viewer had mounted until cancelled.

        Then unmount them.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    @serves(RELEASE_FOLDER)
    async def release(self, _: ServedCall[Empty], request: NamedMount) -> Empty:
        """Unmount a folder, if no file of it is open.  Raises VitrailError."""
        held = self._held.get(request.mount)
        if held is not None and held.mounted is not None:
            await held.mounted.release()
        return Empty()

    @serves(UNMOUNT_FOLDER)
    async def unmount(
        self, _: ServedCall[FolderState], request: NamedMount
    ) -> FolderState:
        """Unmount a folder in any case."""
        return FolderState(await self._unmount(request.mount))

    @serves(FORGET_FOLDERS)
    async def forget(
        self, _: ServedCall[FolderState], request: NamedLease
    ) -> FolderState:
        """Unmount what an earlier broker left in a sandbox.  Raises VitrailError."""
        return FolderState(await self._source.forget(self._lease(request.lease)))

    def _lease(self, untrusted_lease: str) -> Lease:
        announced = self._pair().leases.get(take_lease_id(untrusted_lease))
        # guard: folders go to announced leases
        if announced is None:
            raise RefusedError("the sandbox is not running: it has no lease")
        return announced.lease

    @serves(MOUNT_FOLDER)
    async def mount(
        self, _: ServedCall[FolderMounted], request: MountFolder
    ) -> FolderMounted:
        """Mount a folder given to a sandbox; return its path there.

        Raises VitrailError.
        """
        lease = self._lease(request.lease)
        self._refuse_more(request.mount)
        folder, write, holder = self._given.take(request.ticket, lease.sandbox)
        held = _Held(lease, folder, write)
        if self._nursery is None:
            raise UpstreamError("the host process is not ready")
        self._held[request.mount] = held
        self._nursery.start_soon(self._end_with, holder, held)
        mounted = await self._nursery.start(self._hold, request.mount, held)
        inside = os.fsencode(mounted.path)
        return FolderMounted(inside, mounted.place)

    def _refuse_more(self, mount: int) -> None:
        """Raise RefusedError for a used number or too many mounts."""
        # guard: each mount has a new number
        if mount in self._held:
            raise RefusedError("the viewer reused the number of a mount")
        # guard: mounts for a viewer are bounded
        if len(self._held) >= limits.LEASES * transfer_limits.FOLDERS_PER_SANDBOX:
            raise RefusedError(f"cannot mount more than {len(self._held)} folders")

    async def _hold(
        self, number: int, held: _Held, *, task_status: trio.TaskStatus[Mounted]
    ) -> None:
        """Mount a folder and hold the mount until it ends.

        ``FolderHost.mounted`` mounts it in a sandbox, by a machine's virtiofsd or as a
        disk, and notes it in a file.  Closes the folder's descriptor; sends the viewer
        FolderLost for a lost mount.
        """
        lost: VitrailError
        try:
            with held.scope:
                async with self._source.mounted(
                    held.lease, held.folder, write=held.write
                ) as mounted:
                    held.mounted = mounted
                    task_status.started(mounted)
                    await mounted.lost()
            _refuse_unmounted(held)
            lost = RefusedError("the permission for the folder has ended")
        except VitrailError as error:
            if held.mounted is None:
                raise
            lost = error
        except Exception as error:
            if held.mounted is None:
                raise
            log_exception(error)
            lost = InternalError("an internal error occurred; see the broker's log")
        finally:
            held.folder.close()
            held.watch.cancel()
            held.over.set()
            if held.mounted is None:
                del self._held[number]
        if not held.reason:
            await self._report(number, lost)

    async def _end_with(self, holder: int, held: _Held) -> None:
        """Unmount a folder when the session child that holds its permit has ended."""
        try:
            with held.watch:
                await wait_ended(holder)
                # guard: a mount ends with its permit, whatever the viewer asks for
                held.scope.cancel()
        finally:
            os.close(holder)
        await held.over.wait()
        # The viewer ends the sandbox of a folder whose end it has asked for.
        if not held.reason and held.mounted is not None and held.mounted.kept:
            reason = f"the sandbox kept files of the folder {held.folder.name} open"
            with isolated():
                await self._source.end_sandbox(held.lease, reason)

    async def _report(self, number: int, lost: VitrailError) -> None:
        """Report to the viewer that a folder is lost."""
        request = FolderLost(number, ErrorReport.of(lost))
        try:
            await self._pair().call(FOLDER_LOST, request)
        except VitrailError as problem:
            log_exception(problem)

    async def _unmount(self, number: int) -> bool:
        """Unmount a folder; return whether the sandbox keeps its files open."""
        held = self._held.get(number)
        if held is None:
            return False  # its mount has failed
        await held.take_back("the viewer unmounted it")
        self._held.pop(number, None)
        return held.mounted is not None and held.mounted.kept


def _refuse_unmounted(held: _Held) -> None:
    if held.mounted is None:
        raise RefusedError("the viewer withdrew the folder before it was mounted")
