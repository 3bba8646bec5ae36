"""Sandboxes that this viewer asks its host to start."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict

import trio

from broker.core.errors import InternalError, UpstreamError, VitrailError
from broker.core.escape import printable
from broker.core.launch_changes import LaunchChanges
from broker.core.lease import Lease
from broker.core.limits import link as limits
from broker.core.names import LeaseId, SandboxName, take_lease_id
from broker.net.link import messages as m
from broker.net.link_service.epoch import Epoch


class HostStarts:
    """All starts under way; ``withdraw`` ends a sandbox that no caller waits for."""

    def __init__(self, withdraw: Callable[[LeaseId], Awaitable[None]]) -> None:
        self._withdraw = withdraw
        self._under_way: set[_Start] = set()

    async def start(
        self,
        epoch: Epoch,
        record: SandboxName,
        nursery: trio.Nursery,
        *,
        progress: Callable[[str], None],
        changes: LaunchChanges,
        for_sandbox: bool = False,
    ) -> Lease:
        """Ask the host for a sandbox; the request outlives a caller that is cancelled.

        So its sandbox, when it is there after all, can be ended.
        """
        start = _Start(epoch, changes, for_sandbox=for_sandbox)
        start.progress = progress
        nursery.start_soon(self._ask, record, start)
        try:
            await start.over.wait()
        except trio.Cancelled:
            start.wanted = False  # it is stopped when it is there
            start.progress = _discard
            raise
        if start.error is not None:
            raise start.error
        assert start.lease is not None
        return start.lease

    def report(self, epoch: Epoch, message: m.StartProgress) -> None:
        """Pass a line of the host's to the caller of that start, if it still waits."""
        for start in self._under_way:
            if start.epoch is epoch and start.number == message.start:
                start.report(message.text)

    async def _ask(self, record: SandboxName, start: _Start) -> None:
        """Send the request for a start, and handle its reply."""
        epoch = start.epoch
        try:
            reply = await epoch.ask(lambda n: self._numbered(n, record, start))
            if not isinstance(reply, m.SandboxStarted):
                raise InternalError("the host sent an unexpected reply")
            announced = epoch.leases.usable(take_lease_id(reply.lease))
            if announced is None:
                raise UpstreamError(
                    f"the sandbox of '{record}' ended while it was starting",
                    hint="to see the reason, run 'brokerctl audit'",
                )
            start.lease = announced.lease
            disposable = announced.lease.sandbox != record
            if disposable and not start.wanted:
                await self._withdraw(announced.lease.id)
        except VitrailError as error:
            start.error = error
        finally:
            self._under_way.discard(start)
            start.over.set()

    def _numbered(
        self, number: int, record: SandboxName, start: _Start
    ) -> m.StartSandbox:
        """Return the request for a start, and register its number for progress."""
        start.number = number
        self._under_way.add(start)
        return m.StartSandbox(
            number, record, **asdict(start.changes), for_sandbox=start.for_sandbox
        )


class _Start:
    """A start that was asked for."""

    def __init__(
        self, epoch: Epoch, changes: LaunchChanges, *, for_sandbox: bool
    ) -> None:
        self.for_sandbox = for_sandbox
        self.epoch = epoch
        self.changes = changes
        self.number = 0
        self.progress: Callable[[str], None] = _discard
        self._reported = 0
        self.over = trio.Event()
        self.wanted = True
        self.lease: Lease | None = None
        self.error: VitrailError | None = None

    def report(self, untrusted_text: str) -> None:
        """Pass on a line of the host's; a start needs a handful of them."""
        self._reported += 1
        if self._reported <= limits.LINK_PROGRESS_LINES:
            self.progress(printable(untrusted_text))


def _discard(text: str) -> None:
    """No task waits for this start any more."""
