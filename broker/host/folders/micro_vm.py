"""The way of a directory into a micro VM: a mount in the namespace of a virtiofsd.

Its guest unmounts it first, where it is asked and does so.  If it does not,
virtiofsd is killed: it may have files of the directory open for the guest, which
unmounting does not reach.  The place is lost to the machine then.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import trio

from broker.core.errors import RefusedError, UpstreamError, VitrailError
from broker.core.files.opened_folder import OpenedFolder
from broker.core.stderr_log import log_exception
from broker.helpers.mounts import mounts
from broker.helpers.mounts.namespaces import mount_namespace
from broker.helpers.process.spawn import wait_ended
from broker.host.processes.tracked import Tracked
from broker.wire.faults import HeldError

_ROOT, _HERE = "/shared", "here"
"""As ``launch.microvm.folder_server.ROOT`` and ``PLACE``, loaded with a machine."""


@dataclass(eq=False)
class ServedFolder:
    """A folder in a micro VM: ``viewer.folders.desk.Mounted``."""

    server: Tracked
    place: int | None
    path: str
    released: bool = False
    kept: bool = False

    async def release(self) -> None:
        """Unmount the folder.

        Raises RefusedError where virtiofsd has files of it open.  Starts the mounting
        tool.
        """
        try:
            with _namespace(self.server) as namespace:
                await mounts.detach(namespace, _HERE, base=_ROOT)
        except HeldError as error:
            raise RefusedError(
                "cannot unmount the folder: the guest has open files in it",
                hint="close these files and try again; to stop the sandbox instead, run 'brokerctl unshare --force SANDBOX FOLDER'",
            ) from error
        self.released = True

    async def lost(self) -> None:
        """Wait for the end of virtiofsd, and raise UpstreamError then."""
        await wait_ended(self.server.pidfd)
        raise UpstreamError(_ended(self.server))


class WithPlaces(Protocol):
    """A machine with virtiofs devices: ours, or that of a script."""

    @property
    def folder_servers(self) -> dict[int, Tracked]:
        """Its virtiofsd processes, by the number of the folder's place."""


def free_place(machine: WithPlaces, used: set[int]) -> tuple[int, Tracked]:
    """Return a place where no folder is.  Raises RefusedError without one."""
    servers = machine.folder_servers
    for place, server in servers.items():
        if place not in used and not server.ended:
            return place, server
    dead = [server for server in servers.values() if server.ended]
    if dead:
        raise RefusedError(
            f"cannot share the folder: of this micro VM's {len(servers)} slots for shared folders {len(dead)} can no longer be used: {_ended(dead[0])}",
            hint="stop the sandbox and start it again",
        )
    raise RefusedError(
        "cannot share the folder: this micro VM has no free slot for a shared folder",
        hint="increase 'folders' in [launch] of its record, or list the directory in [folders]; for a domain of libvirt, run 'brokerctl launcher prepare'; then stop the sandbox and start it again",
    )


def _ended(server: Tracked) -> str:
    """Return that a virtiofsd has ended, with what it wrote to its standard error."""
    written = f": {server.words}" if server.words else ""
    return f"virtiofsd, which serves the folder, has ended{written}"


async def serve(
    place: int, server: Tracked, folder: OpenedFolder, *, write: bool
) -> ServedFolder:
    """Mount a folder in a virtiofsd's namespace; return it.  Raises VitrailError.

    Starts the mounting tool.
    """
    served = ServedFolder(server, place, folder.at or f"/folders/{folder.name}")
    try:
        with _namespace(server) as namespace:
            await mounts.attach(namespace, folder, write=write, base=_ROOT, name=_HERE)
    except BaseException:
        # The helper may have mounted it before it was given up.
        # guard: a place is empty after a failed mount
        await revoke(served)
        raise
    return served


async def revoke(served: ServedFolder) -> None:
    """Unmount a folder; if the guest holds it, end its virtiofsd.  Not cancellable."""
    with trio.CancelScope(shield=True):
        if served.released:
            return
        try:
            await served.release()
        except mounts.AbsentError:
            return
        except (VitrailError, OSError) as error:
            if isinstance(error, OSError):
                log_exception(error)
            # guard: a folder that is held ends its server
            await served.server.end(0)


async def clear(machine: WithPlaces) -> None:
    """Take away what an earlier broker has left."""
    for place, server in machine.folder_servers.items():
        if not server.ended:
            await revoke(ServedFolder(server, place, ""))


@contextmanager
def _namespace(server: Tracked) -> Iterator[int]:
    """Yield a descriptor of a virtiofsd's mount namespace.  Raises UpstreamError."""
    if server.ended:
        raise UpstreamError(_ended(server))
    pidfd = os.dup(server.pidfd)
    try:
        with mount_namespace(server.pid, pidfd) as namespace:
            yield namespace
    finally:
        os.close(pidfd)
