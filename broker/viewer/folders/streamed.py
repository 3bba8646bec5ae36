"""Folders of sandboxes on another machine: each is served over a stream of its guest's.

The guest mounts it by sshfs(1), whose connection comes as any stream of its sandbox.
Each folder has a session child that serves it: OpenSSH's sftp-server in a jail, where
the directory is mounted as in a virtiofsd of one machine
(``session.folders.folder_server``).  The host only carries bytes.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from broker.authority.audit.event_log import EventLog
from broker.core.errors import PeerError, RefusedError, UpstreamError, VitrailError
from broker.core.lease import Lease, Opening
from broker.core.limits import host_viewer as folder_limits
from broker.core.limits import transfer as limits
from broker.core.names import LeaseId
from broker.host_and_viewer.host_folders import GivenFolder
from broker.host_and_viewer.stream_events import StreamEvents
from broker.ipc.host_viewer import TaskStatus
from broker.net.hangup import given, hang_up


@dataclass(eq=False)
class StreamedFolder:
    """A folder in a guest on another machine; implements ``host_folders.Mounted``."""

    folder: GivenFolder
    path: str
    place: int | None
    kept: bool = False
    """Never: what the guest has open ends with the process that serves it."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    taken: bool = False
    """A connection serves it, or has."""
    over: trio.Event = field(default_factory=trio.Event)

    async def release(self) -> None:
        """Do nothing: the guest has unmounted it."""

    async def lost(self) -> None:
        """Wait for the end of its connection, and raise UpstreamError then."""
        await self.over.wait()
        raise UpstreamError(
            f"the sandbox closed its connection to the folder '{self.folder.name}'"
        )

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Reserve this folder for its one connection.

        Raises RefusedError for a second.
        """
        # guard: a folder has one connection
        if self.taken:
            raise RefusedError(
                f"another connection already serves the folder '{self.folder.name}'"
            )
        self.taken = True
        try:
            with self.scope:
                yield
        finally:
            self.over.set()


class StreamedFolders:
    """Implements ``host_folders.FolderSource`` for sandboxes on another machine."""

    unavailable = ""

    def __init__(self, log: EventLog) -> None:
        self._events = StreamEvents(log)
        self._shared: dict[LeaseId, dict[int, StreamedFolder]] = {}

    @asynccontextmanager
    async def mounted(
        self, lease: Lease, folder: GivenFolder, *, write: bool
    ) -> AsyncIterator[StreamedFolder]:
        """Offer a folder to its guest's connection while the block runs.

        See ``FolderSource``.
        """
        del write  # its session child knows it
        mine = self._shared.setdefault(lease.id, {})
        free = (n for n in range(limits.FOLDERS_PER_SANDBOX) if n not in mine)
        place = next(free, None)
        if place is None:
            raise RefusedError(
                f"{lease.sandbox} already has {limits.FOLDERS_PER_SANDBOX} shared folders, the limit",
                hint="to end the sharing of a folder, run 'brokerctl unshare "
                f"{lease.sandbox} FOLDER'",
            )
        shared = StreamedFolder(folder, f"/folders/{folder.name}", place)
        mine[place] = shared
        try:
            yield shared
        finally:
            del mine[place]
            if not mine:
                self._shared.pop(lease.id, None)
            shared.scope.cancel()
            # guard: a folder that was taken back is served no longer
            if shared.taken:
                with trio.CancelScope(shield=True):
                    await shared.over.wait()

    async def end_sandbox(self, lease: Lease, reason: str) -> None:
        """Raise RefusedError: no folder can be the reason."""
        raise RefusedError(f"cannot stop {lease.sandbox}: {reason}")

    async def forget(self, lease: Lease) -> bool:
        """No broker has left a folder there: its server ends with it."""
        del lease
        return False

    async def carry(
        self, opening: Opening, conn: socket.socket, *, task_status: TaskStatus
    ) -> None:
        """Serve a guest's connection for a folder; return when it has ended."""
        with given(conn):
            # As a display's: from here on it is the peer's time that passes.
            task_status.started()
            accepted, opened = trio.current_time(), False
            try:
                shared = self._wanted(opening, await _read_place(conn))
                with shared.serving():
                    async with self._events.carry(
                        opening, "folder", accepted=accepted
                    ) as outcome:
                        opened = True
                        await shared.folder.serve(conn.fileno())
                        outcome.reason = ""
            except VitrailError as error:
                hang_up(conn)
                if not opened:
                    await self._events.refused(opening, str(error))

    def _wanted(self, opening: Opening, untrusted_place: int) -> StreamedFolder:
        # guard: a guest is served the folders of its own sandbox
        shared = self._shared.get(opening.lease.id, {}).get(untrusted_place)
        if shared is None:
            raise RefusedError(
                f"the sandbox has no shared folder with number {untrusted_place}"
            )
        return shared


async def _read_place(conn: socket.socket) -> int:
    """Read the byte by which a guest names its folder.

    Raises PeerError if it is late.
    """
    # guard: a connection for a folder names it soon
    with trio.move_on_after(folder_limits.FOLDER_PLACE_SECONDS):
        while True:
            await trio.lowlevel.wait_readable(conn)
            try:
                untrusted_byte = conn.recv(1)
            except BlockingIOError:
                continue
            except OSError as error:
                raise PeerError("the guest did not name a folder") from error
            if not untrusted_byte:
                raise PeerError("the guest did not name a folder")
            return untrusted_byte[0]
    raise PeerError(
        f"the guest did not name a folder within {folder_limits.FOLDER_PLACE_SECONDS:g} s"
    )
