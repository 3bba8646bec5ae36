"""Sandboxes that this viewer asks its host to start, here or on another machine."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

import trio

from broker.core.errors import UpstreamError, VitrailError
from broker.core.escape import printable
from broker.core.launch_changes import LaunchChanges
from broker.core.lease import Lease
from broker.core.limits import link as limits
from broker.core.names import LeaseId, SandboxName, take_lease_id
from broker.ipc.host_rows import START, StartProgress, StartSandbox
from broker.net.link_service.far_end import FarEnd


@dataclass(eq=False)
class HostStart:
    """A start that is asked for."""

    host: FarEnd
    record: SandboxName
    changes: LaunchChanges
    for_sandbox: bool
    progress: Callable[[str], None]
    lines: float = math.inf
    """Lines of progress that are still passed on."""
    wanted: bool = True

    def report(self, step: StartProgress) -> None:
        """Pass on a line of the host's."""
        self.lines -= 1
        if self.lines >= 0:
            self.progress(printable(step.text))

    async def call(self) -> Lease:
        """Have the host start a sandbox; return its lease.  Raises VitrailError."""
        request = StartSandbox(
            self.record, **asdict(self.changes), for_sandbox=self.for_sandbox
        )
        started = await self.host.peer.call_with_fds(
            START, request, on_item=self.report
        )
        announced = self.host.leases.usable(take_lease_id(started.value.lease))
        if announced is None:
            raise UpstreamError(
                f"the sandbox of '{self.record}' ended while it was starting",
                hint="to see the reason, run 'brokerctl audit'",
            )
        return announced.lease


class RemoteStarts:
    """Starts on another machine; ``withdraw`` ends a sandbox that no caller waits for."""

    def __init__(self, withdraw: Callable[[LeaseId], Awaitable[None]]) -> None:
        self._withdraw = withdraw

    async def start(self, start: HostStart, nursery: trio.Nursery) -> Lease:
        """Ask the host for a sandbox; the request outlives a caller that is cancelled.

        So its sandbox, when it is there after all, can be ended.
        """
        # A start needs a handful of them.
        start.lines = limits.LINK_PROGRESS_LINES
        put, outcome = trio.open_memory_channel[Lease | VitrailError](1)
        nursery.start_soon(self._await, start, put)
        try:
            lease = await outcome.receive()
        except trio.Cancelled:
            start.wanted = False  # it is stopped when it is there
            start.progress = _discard
            raise
        if isinstance(lease, VitrailError):
            raise lease
        return lease

    async def _await(
        self, start: HostStart, put: trio.MemorySendChannel[Lease | VitrailError]
    ) -> None:
        """Send the request for a start, and handle its reply."""
        with put:
            try:
                lease = await start.call()
                disposable = lease.sandbox != start.record
                if disposable and not start.wanted:
                    await self._withdraw(lease.id)
                put.send_nowait(lease)
            except VitrailError as error:
                put.send_nowait(error)


def _discard(text: str) -> None:
    """No task waits for this start any more."""
