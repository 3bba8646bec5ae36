"""Control methods that every broker serves: state, stop."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from broker import __version__
from broker.core.lease import Lease
from broker.core.names import LeaseId, sandboxes_named, take_sandbox_name
from broker.helpers.compositor_socket import named_display
from broker.host_and_viewer.sandbox_names import not_running
from broker.ipc.control import shared_methods as methods
from broker.ipc.control.fitting import fit_status
from broker.ipc.control.method import Exchange, serves
from broker.ipc.control.types.base import Nothing, StopAnswer, StopRequest, Version
from broker.ipc.control.types.status import Status

_GRACE = 5.0
"""Seconds between the request to power off and the end by force."""


class PowerOffCall(Protocol):
    """Ends a sandbox; returns when it is gone."""

    async def __call__(self, lease: LeaseId, *, reason: str, grace: float) -> None:
        """``grace`` in seconds."""
        ...


@dataclass(frozen=True)
class Shared:
    """What the methods of every role need."""

    role: str
    """``local``, ``host`` or ``viewer``."""
    live: Callable[[], list[Lease]]
    power_off: PowerOffCall
    status: Callable[[], Awaitable[Status]]
    shutdown: trio.Event


class SharedControl:
    """The methods that no role lacks."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    @serves(methods.GET_VERSION)
    async def version(self, exchange: Exchange[Version], request: Nothing) -> Version:
        """Which broker this is."""
        del exchange, request
        role = self._shared.role
        return Version(
            version=__version__,
            role=role,
            pid=os.getpid(),
            display="" if role == "host" else named_display(),
        )

    @serves(methods.STATUS)
    async def status(self, exchange: Exchange[Status], request: Nothing) -> Status:
        """Everything for ``brokerctl status``."""
        del exchange, request
        return fit_status(await self._shared.status())

    # -- ending ---------------------------------------------------------------

    @serves(methods.STOP)
    async def stop(
        self, exchange: Exchange[StopAnswer], request: StopRequest
    ) -> StopAnswer:
        """Stop one sandbox, or all; return their names once their leases have ended."""
        grace = _GRACE if request.grace is None else max(0.0, request.grace)
        found = self._shared.live()
        if request.sandbox is not None:
            name = take_sandbox_name(request.sandbox)
            pairs = [(lease.sandbox, lease.record) for lease in found]
            named = set(sandboxes_named(name, pairs))
            found = [lease for lease in found if lease.sandbox in named]
            if not found:
                raise not_running(name, pairs)
        await self._stop_them(found, grace, f"by process {exchange.caller.pid}")
        return StopAnswer(stopped=[lease.sandbox for lease in found])

    async def _stop_them(self, leases: list[Lease], grace: float, who: str) -> None:
        """Stop the sandboxes of these leases, all at once."""

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

    @serves(methods.SHUTDOWN)
    async def shutdown(self, exchange: Exchange[Nothing], request: Nothing) -> Nothing:
        """Begin to end the broker; returns at once."""
        del exchange
        self._shared.shutdown.set()
        return request
