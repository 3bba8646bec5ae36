"""The way of a directory into a sandbox: a mount in the namespace of its processes.

It decides nothing; the verdict comes from the viewer's part.  Loaded only where host
and viewer are on one machine: a directory of the viewer's is not on another one's.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import trio

from broker.core.errors import RefusedError, VitrailError
from broker.core.files.opened_folder import OpenedFolder
from broker.core.lease import Lease
from broker.core.names import LeaseId
from broker.core.stderr_log import log_exception
from broker.helpers.mounts import mounts
from broker.helpers.mounts.namespaces import mount_namespace
from broker.helpers.mounts.tool import BASE
from broker.host.folders.disks import AttachedDisk, Disks
from broker.host.folders.micro_vm import (
    ServedFolder,
    WithPlaces,
    clear,
    free_place,
    revoke,
    serve,
)
from broker.host.folders.notes import FolderNotes
from broker.host.foreign_machine import ForeignMachine
from broker.host.launched_machine import LaunchedMachine
from broker.host.launchers.microvm_machine import MicroVmMachine
from broker.host.machine_interface import Machine
from broker.host.role import ActiveLease, HostRole
from broker.ipc.in_thread import in_thread
from broker.net.peers.identity import ContainerClaim, SharedClaim
from broker.wire.faults import HeldError

_SOCKETS = "/run/vitrail"
"""Where each of our launchers mounts a sandbox's sockets, its last mount but files."""
_CLOSE_IT = "close these files and try again; to stop the sandbox instead, run 'brokerctl unshare --force SANDBOX FOLDER'"
_STOP_IT = "to end its access, stop it: run 'brokerctl unshare --force SANDBOX FOLDER'"


@dataclass(eq=False)
class MountedFolder:
    """A folder in a container or box."""

    machine: Machine
    name: str
    path: str
    released: bool = False
    kept: bool = False
    """Whether a program may have kept it in spite of the end."""
    place: int | None = None
    """Only micro VMs have places."""
    number: int | None = None
    """The kernel's number of the mount, once it is there."""

    @property
    def _closed(self) -> bool:
        """Whether our launcher keeps the sandbox's programs from making namespaces."""
        machine = self.machine
        return isinstance(machine, LaunchedMachine) and machine.state.namespaces_closed

    async def lost(self) -> None:
        """Wait for ever: a mount needs no process."""
        await trio.sleep_forever()

    async def release(self) -> None:
        """Unmount the folder with the mounting tool.

        Sets ``kept`` if a program may still have a copy.  Raises RefusedError before the
        unmounting if a program could keep one.
        """
        try:
            with _namespace(self.machine) as (pid, namespace):
                # guard: a copy that no process has is not overlooked
                if await mounts.may_make_mounts(pid, closed=self._closed):
                    raise RefusedError(
                        "the sandbox's programs may have separate mounts, because they can create namespaces",
                        hint=_STOP_IT,
                    )
                await in_thread(mounts.refuse_other_namespaces, pid)
                # guard: a copy made before the unmounting is found
                self.kept = await self.unmount(pid, namespace)
        except (HeldError, mounts.AbsentError) as error:
            raise RefusedError(error.message, hint=_CLOSE_IT) from error
        self.released = True

    async def unmount(self, pid: int, namespace: int) -> bool:
        """Unmount the folder; return whether a program may have a copy of it.

        Raises HeldError if it is in use, or elsewhere; AbsentError.  Starts the
        mounting tool for both.
        """
        base, _, name = self.path.rpartition("/")
        await mounts.detach(namespace, name, base=base)
        mounts.refuse_moved(pid, self.number)
        # Last: until it is unmounted a program could make a copy.
        if await in_thread(mounts.may_have_copy, pid):
            return True
        # guard: after a crash a copy that no process has is not overlooked
        return await mounts.may_make_mounts(pid, closed=self._closed)


class FolderHost:
    """What ``host_folders.FolderSource`` asks, for one machine's sandboxes."""

    unavailable = ""

    def __init__(self, host: HostRole, runtime: Path) -> None:
        self._host = host
        self._notes = FolderNotes(runtime / "folders")
        self._places: dict[LeaseId, set[int]] = {}
        """Of micro VMs: where folders are."""
        self._disks = Disks()

    @asynccontextmanager
    async def mounted(
        self, lease: Lease, folder: OpenedFolder, *, write: bool
    ) -> AsyncIterator[MountedFolder | ServedFolder | AttachedDisk]:
        """Hold a folder mounted in a sandbox while the block runs.

        See ``FolderSource``. A sandbox that keeps files open at the end is ended.
        """
        machine = self._machine(lease)
        if folder.tag:
            async with self._disks.attached(machine, folder, write=write) as disk:
                yield disk
            return
        if _has_places(machine):
            async with self._served(lease, machine, folder, write=write) as served:
                yield served
            return
        path = folder.at or f"{BASE}/{folder.name}"
        mounted = MountedFolder(machine, folder.name, path)
        pid = _leader(machine)
        self._notes.write(lease.sandbox, pid, path, None)
        try:
            await _mount(mounted, folder, write=write)
            self._notes.write(lease.sandbox, pid, path, mounted.number)
        except BaseException:
            # The helper may have mounted it before it was given up.
            with trio.CancelScope(shield=True):
                # guard: nothing is mounted after a failed mount
                await _withdraw(mounted)
                self._notes.remove(lease.sandbox, path)
            raise
        try:
            yield mounted
        finally:
            with trio.CancelScope(shield=True):
                if not mounted.released:
                    await _revoke(mounted)
                if mounted.kept:
                    _end_with_lease(machine)
                else:
                    self._notes.remove(lease.sandbox, path)

    @asynccontextmanager
    async def _served(
        self,
        lease: Lease,
        machine: WithPlaces,
        folder: OpenedFolder,
        *,
        write: bool,
    ) -> AsyncIterator[ServedFolder]:
        """Hold a folder mounted in a micro VM's virtiofsd while the block runs."""
        used = self._places.setdefault(lease.id, set())
        place, server = free_place(machine, used)
        used.add(place)
        try:
            served = await serve(place, server, folder, write=write)
            try:
                yield served
            finally:
                await revoke(served)
        finally:
            used.remove(place)
            if not used:
                self._places.pop(lease.id, None)

    async def end_sandbox(self, lease: Lease, reason: str) -> None:
        """See ``FolderSource``."""
        await self._host.stop(lease.id, grace=1.0, reason=reason)

    async def forget(self, lease: Lease) -> bool:
        """Unmount folders that an earlier broker has left in a sandbox.

        See ``FolderSource``.
        """
        machine = self._machine(lease)
        if isinstance(machine, MicroVmMachine):
            await clear(machine)
            return await self._disks.forget(machine)
        if _has_places(machine):
            await clear(machine)
            return False
        try:
            noted = self._notes.left(lease.sandbox, _leader(machine))
        except RefusedError:
            return False  # it takes no folder, or has ended
        if noted is None:
            self._notes.clear(lease.sandbox)
            _end_with_lease(machine)
            return True
        left = [
            MountedFolder(machine, "", _path_of(name), number=n)
            for name, n in noted.items()
        ]
        kept = [await _taken_back(mounted) for mounted in left]
        self._notes.clear(lease.sandbox)
        if any(kept):
            _end_with_lease(machine)
        return any(kept)

    def _machine(self, lease: Lease) -> Machine:
        leases: Iterable[ActiveLease] = self._host.active_leases()
        for active in leases:
            if active.lease.id == lease.id and not active.stopping:
                return active.machine
        raise RefusedError(f"'{lease.sandbox}' is no longer running")


def _has_places(machine: Machine) -> TypeGuard[WithPlaces]:
    """Return whether folders of a machine are served by virtiofs devices."""
    if isinstance(machine, ForeignMachine):
        return bool(machine.folder_servers)
    return isinstance(machine, MicroVmMachine)


def _path_of(noted: str) -> str:
    """Return the path of a note; an earlier version's has the folder's name."""
    return noted if noted.startswith("/") else f"{BASE}/{noted}"


async def _mount(mounted: MountedFolder, folder: OpenedFolder, *, write: bool) -> None:
    """Have the mounting tool mount a folder in its machine, once that is set up."""
    with _namespace(mounted.machine) as (pid, namespace):
        if isinstance(mounted.machine, LaunchedMachine):
            await mounts.wait_set_up(pid, _SOCKETS)
        base, _, name = mounted.path.rpartition("/")
        attached = await mounts.attach(
            namespace, folder, write=write, base=base, name=name
        )
        mounted.number = attached.number


async def _revoke(mounted: MountedFolder) -> None:
    """Unmount a folder also while files of it are open (lazily). Ends no program."""
    mounted.kept = True
    try:
        await mounted.release()
    except VitrailError:
        await _detach_lazily(mounted)
    except OSError as error:  # no descriptor or process is to be had
        log_exception(error)
    else:
        return
    mounted.kept = bool(mounted.machine.alive())


async def _detach_lazily(mounted: MountedFolder) -> None:
    """Have the mounting tool detach a folder at once; an error is ignored."""
    with suppress(VitrailError), _namespace(mounted.machine) as (_, namespace):
        base, _, name = mounted.path.rpartition("/")
        await mounts.detach(namespace, name, lazily=True, base=base)


async def _taken_back(mounted: MountedFolder) -> bool:
    """Unmount a folder if it is mounted; return whether a program may have kept it."""
    try:
        with _namespace(mounted.machine) as (pid, namespace):
            return await mounted.unmount(pid, namespace)
    except mounts.AbsentError:
        # guard: a folder whose place was moved is found
        return mounted.number is not None
    except VitrailError:
        await _detach_lazily(mounted)
        return bool(mounted.machine.alive())


def _end_with_lease(machine: Machine) -> None:
    """Have a sandbox that keeps a folder end, also a container of the user's own."""
    if isinstance(machine, LaunchedMachine):
        # guard: a container that keeps a folder does not run on
        machine.must_end = True


async def _withdraw(mounted: MountedFolder) -> None:
    """Undo an attempt to mount.  Raises HeldError if a program keeps the folder."""
    if await _taken_back(mounted):
        _end_with_lease(mounted.machine)
        raise HeldError("a program in the sandbox still has files of the folder open")


@contextmanager
def _namespace(machine: Machine) -> Iterator[tuple[int, int]]:
    """Yield the pid and mount namespace of the sandbox's first process."""
    pid = _leader(machine)
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        raise RefusedError("the sandbox is no longer running") from error
    try:
        # Held by its lease, and alive after the open: so the pid was not reused.
        if pid not in machine.alive():
            raise RefusedError("the sandbox is no longer running")
        with mount_namespace(pid, pidfd) as namespace:
            yield pid, namespace
    finally:
        os.close(pidfd)


def _leader(machine: Machine) -> int:
    """Return the pid in whose mount namespace a folder goes.  Raises RefusedError."""
    pid = machine.facts.pid
    if isinstance(machine, ForeignMachine):
        if isinstance(machine.claim, SharedClaim):
            raise RefusedError(
                "cannot share a folder with a toolbox or distrobox: it can already access your home"
            )
        if isinstance(machine.claim, ContainerClaim) and pid is not None:
            return pid
        raise RefusedError(
            "cannot share a folder with a machine that another program started",
            hint="share the folder by means of that program, or copy files with 'brokerctl cp'; "
            "a domain of libvirt has those of its record after 'brokerctl launcher prepare', "
            "a machine that your script starts by 'brokerctl machine arguments' (docs/folders.md)",
        )
    raise RefusedError("cannot share a folder with this kind of sandbox")
