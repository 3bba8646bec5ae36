"""The seam between the host's part and the viewer's part.

In ``local`` both parts live in one process and call each other directly; on
two machines the same calls travel over the authenticated link.  So whatever
crosses here is a small frozen value or an owned socket, never an object of
the other side.

The host knows peers, CIDs and machines; the viewer knows policy, windows and
the person.  The host asks the viewer nothing about rules: it announces a
lease, then offers streams, and the viewer takes or refuses them.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol

import trio

from broker.core.launch_changes import NO_CHANGES, LaunchChanges
from broker.core.lease import Lease, Opening
from broker.core.names import LeaseId, SandboxName


class Viewer(Protocol):
    """The messages that the host may send to the viewer."""

    async def lease_begun(self, lease: Lease) -> None:
        """Announce a lease; before its first stream.

        Raises RefusedError when the viewer does not want this sandbox.
        """
        ...

    async def lease_ended(self, lease: LeaseId, reason: str) -> None:
        """Withdraw a lease; returns when every stream of it is cut."""
        ...

    async def stream_opened(
        self,
        opening: Opening,
        conn: socket.socket,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Offer a stream; started with ``nursery.start``, which is the answer.

        ``task_status.started()`` means that the viewer has taken the stream;
        RefusedError before that is its verdict.  Returns when the stream has
        ended, and never raises once it was taken; cancelling it cuts the
        stream.  The viewer owns ``conn`` from the call on, whatever happens.
        """
        ...


class Host(Protocol):
    """Requests of the viewer that the host serves, within its own records."""

    async def start(
        self,
        record: SandboxName,
        *,
        progress: Callable[[str], None],
        changes: LaunchChanges = NO_CHANGES,
    ) -> Lease:
        """Start the sandbox of a record, or return its lease if it runs.

        A disposable is started again each time, under a fresh name.  Returns
        after ``Viewer.lease_begun``; the machine may still boot.  ``progress``
        receives the steps that take time meanwhile.  ``changes`` is for this start.

        Raises RefusedError when no record allows it, or it runs and was to change, SetupError or
        UpstreamError when it cannot be started.
        """
        ...

    async def stop(self, lease: LeaseId, *, grace: float, reason: str) -> None:
        """End a sandbox: ask the machine, insist after ``grace`` seconds.

        ``reason`` is for the log.  Returns when it is gone, also when it was
        gone before.
        """
        ...
