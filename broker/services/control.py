"""Control methods that every role serves: state, stop, retention."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import trio

from broker import __version__
from broker.control import api
from broker.control.methods import Elsewhere
from broker.core.errors import RefusedError
from broker.core.lease import Lease
from broker.core.names import LeaseId, sandboxes_named, take_sandbox_name
from broker.services.sandbox_names import not_running

_GRACE = 5.0
"""Seconds between the request to power off and the end by force."""


class PowerOffCall(Protocol):
    """Ends a sandbox; returns when it is gone."""

    async def __call__(self, lease: LeaseId, *, reason: str, grace: float) -> None:
        """``grace`` in seconds."""
        ...


@dataclass(frozen=True)
class Shared:
    """The parts that the control class of every role needs."""

    role: str
    """``local``, ``host`` or ``viewer``."""
    live: Callable[[], list[Lease]]
    power_off: PowerOffCall
    status: Callable[[], Awaitable[api.Status]]
    leases: Callable[[], list[api.LeaseStatus]]
    shutdown: trio.Event
    prune: Callable[[int | None, int | None], Awaitable[int]]
    """The audit log's retention: seconds, megabytes; returns the number removed."""


class SharedControl:
    """The part of ``control.api.BrokerApi`` that no role lacks."""

    elsewhere: Mapping[str, Elsewhere] = MappingProxyType({})
    """The methods that a role lacks, by their name on the wire."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def version(self) -> api.Version:
        """Which broker this is."""
        return api.Version(version=__version__, role=self._shared.role, pid=os.getpid())

    async def status(self) -> api.Status:
        """Everything for ``brokerctl status``."""
        return await self._shared.status()

    # -- ending ---------------------------------------------------------------

    async def stop(
        self, caller: api.Caller, request: api.StopRequest
    ) -> api.StopAnswer:
        """End sandboxes; returns when they are gone."""
        grace = _GRACE if request.grace is None else max(0.0, request.grace)
        found = self._shared.live()
        if request.sandbox is not None:
            name = take_sandbox_name(request.sandbox)
            pairs = [(lease.sandbox, lease.record) for lease in found]
            named = set(sandboxes_named(name, pairs))
            found = [lease for lease in found if lease.sandbox in named]
            if not found:
                raise not_running(name, pairs)
        await self._stop_them(found, grace, f"by process {caller.pid}")
        return api.StopAnswer(stopped=[lease.sandbox for lease in found])

    async def _stop_them(self, leases: list[Lease], grace: float, who: str) -> None:
        async def stop(lease: Lease) -> None:
            await self._shared.power_off(
                lease.id, reason=f"stopped on request {who}", grace=grace
            )

        async with trio.open_nursery() as nursery:
            for lease in leases:
                nursery.start_soon(stop, lease)

    async def stop_all(self) -> None:
        """End every sandbox before the broker itself ends."""
        await self._stop_them(self._shared.live(), _GRACE, "(the broker ends)")

    async def shutdown(self, caller: api.Caller) -> None:
        """Begin to end the broker; returns at once."""
        del caller
        self._shared.shutdown.set()

    async def leases(self) -> api.LeaseListAnswer:
        """All live leases."""
        return api.LeaseListAnswer(leases=self._shared.leases())

    # -- the audit log ---------------------------------------------------------------

    async def prune(
        self, caller: api.Caller, request: api.AuditPruneRequest
    ) -> api.AuditPruneAnswer:
        """Remove old events.  Raises RefusedError."""
        del caller
        for given in (request.keep_seconds, request.max_megabytes):
            if given is not None and given < 1:
                raise RefusedError("nothing is kept for less than a second or MB")
        removed = await self._shared.prune(request.keep_seconds, request.max_megabytes)
        return api.AuditPruneAnswer(removed=removed)


NO_DEVICES = Elsewhere(
    "this broker hands out no devices",
    "type it on the viewer, which decides; it lists this host's devices",
)
WITHOUT_DEVICES = dict.fromkeys(("Devices", "DeviceAttach", "DeviceDetach"), NO_DEVICES)
"""For the table of a role that hands out no devices."""

WITHOUT_FOLDERS = dict.fromkeys(
    ("Folders", "FolderShare", "FolderUnshare"),
    Elsewhere(
        "this broker shares no folders: sandboxes and your files are on two machines",
        "copy files with 'brokerctl cp' on the viewer",
    ),
)
"""For the table of a role whose files and sandboxes are on two machines."""

WITHOUT_LAUNCHES = dict.fromkeys(
    ("LaunchPrepare", "LaunchBox", "LaunchBind", "LaunchEnd"),
    Elsewhere(
        "this broker leases no containers and boxes by their launchers",
        "vitrail-local does, where host and viewer are one machine",
    ),
)
"""For the table of a role that binds no launches."""
