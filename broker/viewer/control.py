"""What a broker does for ``brokerctl``, in any of its roles.

``local`` has everything; a host has leases but runs no programs (the agent
is the viewer's), a viewer has programs but gives no leases.  What a role has
not, it says where to find.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from broker import __version__
from broker.control import api
from broker.core.errors import RefusedError
from broker.core.lease import Lease
from broker.core.names import LeaseId, sandboxes_named, take_sandbox_name
from broker.host.lease_requests import Leasing
from broker.viewer import questions
from broker.viewer.clipboard.service import Clipboard
from broker.viewer.clipboard.status import clipboard_status
from broker.viewer.devices.desk import DeviceDesk
from broker.viewer.devices.report import answer_of, devices_answer
from broker.viewer.role import ViewerRole
from broker.viewer.runner import Runner
from broker.viewer.windows import WindowsPart

_GRACE = 5.0


class PowerOff(Protocol):
    """Ends a sandbox; returns when it is gone."""

    async def __call__(self, lease: LeaseId, *, reason: str, grace: float) -> None:
        """``grace`` in seconds."""
        ...


@dataclass(frozen=True)
class Parts:
    """The running broker, as its control socket needs it."""

    role: str
    """``local``, ``host`` or ``viewer``."""
    live: Callable[[], list[Lease]]
    power_off: PowerOff
    status: Callable[[], Awaitable[api.Status]]
    leases: Callable[[], list[api.LeaseStatus]]
    shutdown: trio.Event
    prune: Callable[[int | None, int | None], Awaitable[int]]
    """The audit log's retention: seconds, megabytes; returns how many went."""
    runner: Runner | None = None
    leasing: Leasing | None = None
    windows: WindowsPart | None = None
    viewer: ViewerRole | None = None
    devices: DeviceDesk | None = None


class RoleApi:
    """Implements ``control.api.BrokerApi``."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def version(self) -> api.Version:
        """Which broker this is."""
        return api.Version(version=__version__, role=self._parts.role, pid=os.getpid())

    async def status(self) -> api.Status:
        """Everything for ``brokerctl status``."""
        return await self._parts.status()

    # -- running ---------------------------------------------------------------

    async def run(
        self,
        caller: api.Caller,
        request: api.RunRequest,
        emit: api.Emit[api.RunItem],
    ) -> api.RunItem:
        """Run a program; returns ``started``, or ``exited`` if asked to wait."""
        del caller
        if self._parts.runner is None:
            raise RefusedError(
                "this broker is a host: it starts no programs",
                hint=f"type 'brokerctl run {request.record}' on its viewer",
            )
        return await self._parts.runner.run(request, emit)

    def _runner(self) -> Runner:
        if self._parts.runner is None:
            raise RefusedError("this broker is a host: it runs no programs")
        return self._parts.runner

    async def run_input(self, caller: api.Caller, request: api.RunInputRequest) -> None:
        """Pass input to a program."""
        del caller
        await self._runner().write_input(request)

    async def run_resize(
        self, caller: api.Caller, request: api.RunResizeRequest
    ) -> None:
        """Tell a program's terminal its size."""
        del caller
        await self._runner().resize(request)

    async def open_objects(
        self,
        caller: api.Caller,
        request: api.OpenRequest,
        emit: api.Emit[api.OpenItem],
    ) -> api.OpenItem:
        """Open or copy the person's own; returns where."""
        del caller
        return await self._viewer().person.open(request, emit)

    # -- windows ---------------------------------------------------------------

    def _windows(self) -> WindowsPart:
        if self._parts.windows is None:
            raise RefusedError(
                "this broker is a host: it has no screen",
                hint="type it on its viewer",
            )
        return self._parts.windows

    async def windows(self, request: api.WindowsRequest) -> api.WindowsAnswer:
        """The windows of all sandboxes, or of one."""
        return await self._windows().listed(request)

    async def close_window(
        self, caller: api.Caller, request: api.WindowCloseRequest
    ) -> None:
        """End a window, kindly or not."""
        await self._windows().close(caller, request)

    # -- ending ---------------------------------------------------------------

    async def stop(
        self, caller: api.Caller, request: api.StopRequest
    ) -> api.StopAnswer:
        """End sandboxes; returns when they are gone."""
        grace = _GRACE if request.grace is None else max(0.0, request.grace)
        found = self._parts.live()
        if request.sandbox is not None:
            name = take_sandbox_name(request.sandbox)
            pairs = [(lease.sandbox, lease.record) for lease in found]
            named = set(sandboxes_named(name, pairs))
            found = [lease for lease in found if lease.sandbox in named]
            if not found:
                raise api.NotFoundError(
                    f"no sandbox '{name}' runs",
                    hint="'brokerctl status' lists the running ones",
                )
        await self._stop_them(found, grace, f"by process {caller.pid}")
        return api.StopAnswer(stopped=[lease.sandbox for lease in found])

    async def _stop_them(self, leases: list[Lease], grace: float, who: str) -> None:
        async def stop(lease: Lease) -> None:
            await self._parts.power_off(
                lease.id, reason=f"stopped on request {who}", grace=grace
            )

        async with trio.open_nursery() as nursery:
            for lease in leases:
                nursery.start_soon(stop, lease)

    async def stop_all(self) -> None:
        """End every sandbox before the broker itself ends."""
        await self._stop_them(self._parts.live(), _GRACE, "(the broker ends)")

    async def shutdown(self, caller: api.Caller) -> None:
        """Begin to end the broker; returns at once."""
        del caller
        self._parts.shutdown.set()

    # -- leases of others' machines ------------------------------------------------

    def _leasing(self) -> Leasing:
        if self._parts.leasing is None:
            raise RefusedError(
                "this broker is a viewer: it gives no leases",
                hint="type it on the host, which owns the machines",
            )
        return self._parts.leasing

    async def lease(
        self, caller: api.Caller, request: api.LeaseRequest
    ) -> api.LeaseItem:
        """Lease a foreign machine for as long as its leader lives."""
        del caller
        return await self._leasing().lease(request)

    async def hold_lease(
        self,
        caller: api.Caller,
        request: api.LeaseRequest,
        emit: api.Emit[api.LeaseItem],
    ) -> api.LeaseItem:
        """Lease a foreign machine for as long as the caller stays."""
        del caller
        return await self._leasing().hold_lease(request, emit)

    async def leases(self) -> api.LeaseListAnswer:
        """All live leases."""
        return api.LeaseListAnswer(leases=self._parts.leases())

    async def release(
        self, caller: api.Caller, request: api.LeaseReleaseRequest
    ) -> None:
        """End a lease; a machine that is not ours lives on."""
        await self._leasing().release(caller, request)

    # -- the audit log ---------------------------------------------------------------

    async def prune(
        self, caller: api.Caller, request: api.AuditPruneRequest
    ) -> api.AuditPruneAnswer:
        """Remove old events."""
        del caller
        for given in (request.keep_seconds, request.max_megabytes):
            if given is not None and given < 1:
                raise RefusedError("nothing is kept for less than a second or MB")
        removed = await self._parts.prune(request.keep_seconds, request.max_megabytes)
        return api.AuditPruneAnswer(removed=removed)

    # -- questions and grants --------------------------------------------------------

    def _viewer(self) -> ViewerRole:
        if self._parts.viewer is None:
            raise RefusedError(
                "this broker is a host: it asks nobody anything",
                hint="type it on its viewer, where the person is",
            )
        return self._parts.viewer

    async def pending(self) -> api.PendingAnswer:
        """What waits for the person."""
        return questions.pending(self._viewer())

    async def answer(
        self, caller: api.Caller, request: api.QuestionAnswerRequest
    ) -> None:
        """Answer a question in the person's place."""
        questions.answer(self._viewer(), request, f"process {caller.pid}")

    async def grants(self) -> api.GrantsAnswer:
        """Answers that are remembered."""
        return questions.grants(self._viewer())

    async def revoke(
        self, caller: api.Caller, request: api.GrantRevokeRequest
    ) -> api.GrantsAnswer:
        """Take grants back; returns those that ended."""
        return await questions.revoke(
            self._viewer(), request, f"taken back by process {caller.pid}"
        )

    # -- the clipboard --------------------------------------------------------------

    def _clipboard(self) -> Clipboard:
        if self._parts.viewer is None:
            raise RefusedError(
                "this broker is a host: nothing crosses here",
                hint="type it on its viewer, where the person is",
            )
        return self._parts.viewer.clipboard

    # -- devices -------------------------------------------------------------------

    def _devices(self) -> DeviceDesk:
        if self._parts.devices is None:
            raise RefusedError(
                "this broker hands out no devices",
                hint="devices are handed out where machine and person are one "
                "machine's: by vitrail-local",
            )
        return self._parts.devices

    async def devices(self) -> api.DevicesAnswer:
        """What is plugged in, and who has it."""
        return await devices_answer(self._devices())

    async def attach_device(
        self, caller: api.Caller, request: api.DeviceAttachRequest
    ) -> api.DeviceAnswer:
        """Attach a device; returns when it is there."""
        del caller
        return answer_of(await self._devices().attach(request.port, request.sandbox))

    async def detach_device(
        self, caller: api.Caller, request: api.DeviceDetachRequest
    ) -> api.DeviceAnswer:
        """Take a device back."""
        del caller
        return answer_of(await self._devices().detach(request.port))

    async def clipboard(self) -> api.ClipboardStatus:
        """What is held, on offer, and the chords."""
        return clipboard_status(self._clipboard())

    async def clear_clipboard(self, caller: api.Caller) -> None:
        """Wipe it, and take back what was pasted."""
        del caller
        await self._clipboard().clear()

    async def choose_chords(self, caller: api.Caller) -> api.ClipboardStatus:
        """Read again which chords the person wants."""
        del caller
        await self._clipboard().choose_again()
        return clipboard_status(self._clipboard())
