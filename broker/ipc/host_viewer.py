"""The interface between host and viewer: leases, streams and devices.

Host and viewer are two processes: on one machine the calls travel over a pair of
sockets (``net.link_service.pair_end``), on two machines over the authenticated link.  So whatever
crosses here is a small frozen value or an owned descriptor, never an object of the
other side.

The host knows peers, CIDs and machines; the viewer knows policy, windows and
the user.  The host asks the viewer nothing about rules: it announces a
lease, then offers streams, and the viewer takes or refuses them.  (What it asks about
folders is in ``host_and_viewer.host_folders``.)
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar

import trio
from typing_extensions import override

from broker.core.errors import RefusedError
from broker.core.launch_changes import NO_CHANGES, LaunchChanges
from broker.core.lease import Lease, Opening
from broker.core.names import LeaseId, SandboxName
from broker.ipc.devices.messages import Devices

_Value_contra = TypeVar("_Value_contra", contravariant=True)
TaskStatus: TypeAlias = trio.TaskStatus[None]
"""How a task that gives no value says that it has started."""


class Viewer(Protocol):
    """The messages that the host may send to the viewer."""

    async def lease_begun(self, lease: Lease) -> None:
        """Announce a lease; before its first stream.

        Raises RefusedError when the viewer does not want this sandbox.
        """
        ...

    async def arena_lent(self, lease: LeaseId, fd: int) -> None:
        """Lend the memory where a guest leaves its pixels; after its lease has begun.

        A viewer on another machine ignores it: the guest then sends them.  ``fd``
        stays the caller's.
        """
        ...

    async def machine_stopped(self, lease: LeaseId, reason: str) -> None:
        """Announce that the host stopped a machine, for this reason; "": it runs again.

        A viewer on another machine ignores it: the host's status has the reason.
        """
        ...

    async def lease_ended(self, lease: LeaseId, reason: str) -> None:
        """Withdraw a lease; returns when every stream of it is cut."""
        ...

    async def stream_opened(
        self, opening: Opening, conn: socket.socket, *, task_status: TaskStatus
    ) -> None:
        """Offer a stream; started with ``nursery.start``, which is the answer.

        ``task_status.started()`` means that the viewer has taken the stream;
        RefusedError before that is its verdict.  Returns when the stream has
        ended, and never raises once it was taken; cancelling it cuts the
        stream.  The viewer owns ``conn`` from the call on, whatever happens.
        """
        ...


class StreamRefusedError(RefusedError):
    """The viewer refused a stream, or there is no viewer."""

    def __init__(self, message: str, *, link: str = "", recorded: bool = False) -> None:
        super().__init__(message)
        self.link = link
        """The stream's number on the link, see ``core.lease.Opening``."""
        self.recorded = recorded
        """It is counted, and needs no event of its own."""


@dataclass(eq=False)
class DeviceAttachment:
    """A device in a sandbox, until ``ended`` is set."""

    name: str
    backend: str
    ended: trio.Event = field(default_factory=trio.Event)
    reason: str = ""

    def end(self, reason: str) -> None:
        """Note that the attachment has ended; the first reason is kept."""
        self.reason = self.reason or reason
        self.ended.set()


class DeviceSource(Protocol):
    """The host's devices.  The viewer decides which sandbox gets one."""

    @property
    def changed(self) -> trio.Event:
        """Set, and replaced, when ``devices`` would return something else."""
        ...

    @property
    def elsewhere(self) -> str:
        """A hint for the error that a port has no device; empty: no hint."""
        ...

    async def devices(self) -> Devices:
        """Return all devices.  Raises SetupError, UpstreamError."""
        ...

    def attached(
        self, number: int, lease: Lease
    ) -> AbstractAsyncContextManager[DeviceAttachment]:
        """Attach a device while the block runs.  Raises VitrailError."""
        ...


class Machines(Protocol):
    """Requests of the viewer that a host on another machine serves, too."""

    @property
    def devices(self) -> DeviceSource:
        """The devices of the host's machine."""
        ...

    async def start(
        self,
        record: SandboxName,
        *,
        progress: Callable[[str], None],
        changes: LaunchChanges = NO_CHANGES,
        for_sandbox: bool = False,
    ) -> Lease:
        """Start the sandbox of a record, or return the lease of the running one.

        A disposable is started again each time, under a fresh name.  Returns
        after ``Viewer.lease_begun``; the machine may still boot.  ``progress``
        receives the steps that take time meanwhile.  ``changes`` is for this start.
        ``for_sandbox``: a sandbox has asked for it, so it is refused where memory is
        short; the user is warned.

        Raises RefusedError when no record allows it, or it runs and was to change, SetupError or
        UpstreamError when it cannot be started.
        """
        ...

    async def stop(self, lease: LeaseId, *, grace: float, reason: str) -> None:
        """End a sandbox's machine: ask it, and kill it after ``grace`` seconds.

        ``reason`` is for the log.  Returns when it is gone, also when it was
        gone before.
        """
        ...

    async def suspend(self, lease: LeaseId, *, suspended: bool) -> None:
        """Stop a sandbox's programs, or let them run again.

        Raises RefusedError, with the reason, if the host cannot; UpstreamError.
        """
        ...


@dataclass(eq=False, kw_only=True)
class HeldTask:
    """What a task holds, until the task ends or its end is asked for."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    over: trio.Event = field(default_factory=trio.Event)
    """Set by the task when it no longer holds it."""
    reason: str = ""
    """Why it ends: the first reason that was given."""

    def end(self, reason: str) -> None:
        """Begin to end it; ``over`` is set when that has happened."""
        self.reason = self.reason or reason
        self.scope.cancel()

    async def take_back(self, reason: str) -> None:
        """End it; return when the task no longer holds it."""
        self.end(reason)
        await self.over.wait()


class StartedStatus(trio.TaskStatus[_Value_contra]):
    """Passes on ``started`` and remembers that it was called."""

    def __init__(self, outer: trio.TaskStatus[_Value_contra]) -> None:
        self._outer = outer
        self.called = False

    @override
    def started(self, value: Any = None) -> None:
        self.called = True
        self._outer.started(value)


async def first_of(*events: trio.Event) -> None:
    """Wait until one of the events is set."""
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)
