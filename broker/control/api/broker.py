"""The interface of a broker behind its control socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from broker.control.api.asking import (
    GrantRevokeRequest,
    GrantsAnswer,
    PendingAnswer,
    QuestionAnswerRequest,
)
from broker.control.api.base import Caller, Version
from broker.control.api.clipboard import ClipboardStatus
from broker.control.api.devices import (
    DeviceAnswer,
    DeviceAttachRequest,
    DeviceDetachRequest,
    DevicesAnswer,
)
from broker.control.api.folders import (
    FolderAnswer,
    FoldersAnswer,
    FolderShareRequest,
    FolderUnshareRequest,
)
from broker.control.api.leases import (
    LaunchAnswer,
    LaunchBindRequest,
    LaunchBoxAnswer,
    LaunchBoxRequest,
    LaunchEndRequest,
    LaunchPrepareRequest,
    LeaseItem,
    LeaseListAnswer,
    LeaseReleaseRequest,
    LeaseRequest,
    MachineEventAnswer,
    MachineEventRequest,
)
from broker.control.api.log import AuditPruneAnswer, AuditPruneRequest
from broker.control.api.opening import OpenItem, OpenRequest
from broker.control.api.running import (
    RunInputRequest,
    RunItem,
    RunRequest,
    RunResizeRequest,
    StopAnswer,
    StopRequest,
)
from broker.control.api.status import Status
from broker.control.api.windows import (
    WindowCloseRequest,
    WindowsAnswer,
    WindowsRequest,
)

_Item = TypeVar("_Item")
Emit = Callable[[_Item], Awaitable[None]]
"""Sends an item on before the last one.  Waits while the client is slow; when
the client has gone, the method is cancelled.  For a client that did not ask for
more than one answer, it does nothing."""


class BrokerApi(Protocol):
    """The methods that a broker implements for its control socket.

    Every method may raise RefusedError (also NotFoundError), SetupError,
    UpstreamError or PeerError, which reach the client as they are.  A method
    with ``emit`` is cancelled when its client goes away; the others finish.
    """

    async def version(self) -> Version:
        """Which broker this is."""
        ...

    async def run(
        self, caller: Caller, request: RunRequest, emit: Emit[RunItem]
    ) -> RunItem:
        """Run a program; returns ``started``, or ``exited`` if asked to wait."""
        ...

    async def run_input(self, caller: Caller, request: RunInputRequest) -> None:
        """Pass input to a program; returns when the guest has been sent it."""
        ...

    async def run_resize(self, caller: Caller, request: RunResizeRequest) -> None:
        """Set the size of a program's terminal."""
        ...

    async def open_objects(
        self, caller: Caller, request: OpenRequest, emit: Emit[OpenItem]
    ) -> OpenItem:
        """Open or copy the person's own; returns where."""
        ...

    async def stop(self, caller: Caller, request: StopRequest) -> StopAnswer:
        """End sandboxes; returns when they are gone."""
        ...

    async def shutdown(self, caller: Caller) -> None:
        """Begin to end the broker, with all that it started; returns at once."""
        ...

    async def status(self) -> Status:
        """Everything for ``brokerctl status``."""
        ...

    async def windows(self, request: WindowsRequest) -> WindowsAnswer:
        """The windows of all sandboxes, or of one."""
        ...

    async def close_window(self, caller: Caller, request: WindowCloseRequest) -> None:
        """Close or kill a window; returns when the order was sent."""
        ...

    async def lease(self, caller: Caller, request: LeaseRequest) -> LeaseItem:
        """Register a peer of another launcher, and return the lease.

        It lives as long as ``request.leader``, which is not None here.
        """
        ...

    async def hold_lease(
        self, caller: Caller, request: LeaseRequest, emit: Emit[LeaseItem]
    ) -> LeaseItem:
        """Register a peer, emit the lease, and return why it ended.

        It ends with the leader, if one is named, and when this is cancelled.
        """
        ...

    async def machine_event(self, request: MachineEventRequest) -> MachineEventAnswer:
        """A launcher's hook reports a step of a machine of its own."""
        ...

    async def prepare_launch(
        self, caller: Caller, request: LaunchPrepareRequest
    ) -> LaunchAnswer:
        """Prepare the launch of a container or box."""
        ...

    async def box_of_record(self, request: LaunchBoxRequest) -> LaunchBoxAnswer:
        """How the box of a record is started."""
        ...

    async def bind_launch(
        self, caller: Caller, request: LaunchBindRequest
    ) -> LeaseItem:
        """Lease it to its first process; returns when its sockets exist."""
        ...

    async def end_launch(self, caller: Caller, request: LaunchEndRequest) -> None:
        """End it; returns when its streams are cut."""
        ...

    async def leases(self) -> LeaseListAnswer:
        """All live leases."""
        ...

    async def release(self, caller: Caller, request: LeaseReleaseRequest) -> None:
        """End a lease."""
        ...

    async def prune(
        self, caller: Caller, request: AuditPruneRequest
    ) -> AuditPruneAnswer:
        """Remove old events from the audit log."""
        ...

    async def pending(self) -> PendingAnswer:
        """Questions that wait for the person."""
        ...

    async def answer(self, caller: Caller, request: QuestionAnswerRequest) -> None:
        """Answer a question in the person's place."""
        ...

    async def grants(self) -> GrantsAnswer:
        """Answers that are remembered."""
        ...

    async def revoke(self, caller: Caller, request: GrantRevokeRequest) -> GrantsAnswer:
        """Take grants back; returns those that ended."""
        ...

    async def clipboard(self) -> ClipboardStatus:
        """The held and the offered content, and the chords."""
        ...

    async def clear_clipboard(self, caller: Caller) -> None:
        """Wipe it, and withdraw pasted content; returns when that is done."""
        ...

    async def choose_chords(self, caller: Caller) -> ClipboardStatus:
        """Read again which chords the person wants."""
        ...

    async def folders(self) -> FoldersAnswer:
        """Directories that sandboxes have."""
        ...

    async def share_folder(
        self, caller: Caller, request: FolderShareRequest
    ) -> FolderAnswer:
        """Share a directory with a sandbox; returns when it is mounted."""
        ...

    async def unshare_folder(
        self, caller: Caller, request: FolderUnshareRequest
    ) -> FolderAnswer:
        """Take a directory back; returns when it is unmounted."""
        ...

    async def devices(self) -> DevicesAnswer:
        """Plugged-in devices, and the sandboxes that have them."""
        ...

    async def attach_device(
        self, caller: Caller, request: DeviceAttachRequest
    ) -> DeviceAnswer:
        """Attach a device; returns when it is there."""
        ...

    async def detach_device(
        self, caller: Caller, request: DeviceDetachRequest
    ) -> DeviceAnswer:
        """Take a device back; returns when that is so."""
        ...
