"""The interface between host and viewer: the user's folders in sandboxes.

The viewer calls it, the host implements it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from broker.core.lease import Lease
from broker.ipc.host_viewer import Machines


@dataclass(frozen=True)
class GivenFolder:
    """A directory of the user's that a sandbox may have, opened by a session child."""

    path: Path
    """Without links."""
    ticket: bytes
    """By which the host of this machine knows it."""
    serve: Callable[[int], Awaitable[None]]
    """Serves it over a connection to its end, if the host is on another machine."""

    @property
    def name(self) -> str:
        """The directory's name in a sandbox."""
        return self.path.name


class Mounted(Protocol):
    """A folder in a sandbox."""

    path: str
    """Where it is inside."""
    kept: bool
    """After its end: whether a program of the sandbox may have kept it."""
    place: int | None
    """Which device of a micro VM has it: its guest mounts it.  None elsewhere."""

    async def release(self) -> None:
        """Unmount it now.  Raises RefusedError where files of it are open."""
        ...

    async def lost(self) -> None:
        """Wait until it is gone without a request, and raise UpstreamError then."""
        ...


class FolderSource(Protocol):
    """The way of a directory into a sandbox."""

    @property
    def unavailable(self) -> str:
        """Why no sandbox of this host takes a folder; empty: they do."""
        ...

    def mounted(
        self, lease: Lease, folder: GivenFolder, *, write: bool
    ) -> AbstractAsyncContextManager[Mounted]:
        """Mount a folder while the block runs.  Raises VitrailError."""
        ...

    async def end_sandbox(self, lease: Lease, reason: str) -> None:
        """End a sandbox."""
        ...

    async def forget(self, lease: Lease) -> bool:
        """Unmount what an earlier broker has left in a sandbox.

        Returns whether a program of it may have kept some of it.
        """
        ...


class Host(Machines, Protocol):
    """Requests of the viewer that the host serves, within its records."""

    @property
    def folders(self) -> FolderSource:
        """The way of the user's directories into sandboxes."""
        ...
