"""What a host does for ``brokerctl``: leases, and where the rest is to be found."""

from __future__ import annotations

from typing import NoReturn

from broker.control import api
from broker.core.errors import RefusedError
from broker.host.lease_requests import Leasing
from broker.services.control import (
    Shared,
    SharedControl,
    WithoutDevices,
    WithoutLaunches,
)


class LeaseControl:
    """Leases of machines that others start, for every role that owns machines."""

    _leasing: Leasing

    async def lease(
        self, caller: api.Caller, request: api.LeaseRequest
    ) -> api.LeaseItem:
        """Lease a foreign machine for as long as its leader lives."""
        del caller
        return await self._leasing.lease(request)

    async def hold_lease(
        self,
        caller: api.Caller,
        request: api.LeaseRequest,
        emit: api.Emit[api.LeaseItem],
    ) -> api.LeaseItem:
        """Lease a foreign machine for as long as the caller stays."""
        del caller
        return await self._leasing.hold_lease(request, emit)

    async def release(
        self, caller: api.Caller, request: api.LeaseReleaseRequest
    ) -> None:
        """End a lease; a machine that is not ours lives on."""
        await self._leasing.release(caller, request)


class HostControl(LeaseControl, WithoutLaunches, WithoutDevices, SharedControl):
    """Implements ``control.api.BrokerApi`` on the host of two machines."""

    def __init__(self, shared: Shared, leasing: Leasing) -> None:
        super().__init__(shared)
        self._leasing = leasing

    async def run(
        self,
        caller: api.Caller,
        request: api.RunRequest,
        emit: api.Emit[api.RunItem],
    ) -> api.RunItem:
        """Not here: the viewer does it.  Raises RefusedError."""
        del caller, emit
        _refuse(
            "this broker is a host: it starts no programs",
            f"type 'brokerctl run {request.record}' on its viewer",
        )

    async def run_input(self, caller: api.Caller, request: api.RunInputRequest) -> None:
        """Not here: the viewer does it.  Raises RefusedError."""
        del caller, request
        _refuse("this broker is a host: it runs no programs", "type it on its viewer")

    async def run_resize(
        self, caller: api.Caller, request: api.RunResizeRequest
    ) -> None:
        """Not here: the viewer does it.  Raises RefusedError."""
        del caller, request
        _refuse("this broker is a host: it runs no programs", "type it on its viewer")

    async def open_objects(
        self,
        caller: api.Caller,
        request: api.OpenRequest,
        emit: api.Emit[api.OpenItem],
    ) -> api.OpenItem:
        """Not here: the viewer does it.  Raises RefusedError."""
        del caller, request, emit
        _refuse("this broker is a host: it opens no files", "type it on its viewer")

    async def windows(self, request: api.WindowsRequest) -> api.WindowsAnswer:
        """Not here: the viewer does it.  Raises RefusedError."""
        del request
        _refuse("this broker is a host: it has no screen", "type it on its viewer")

    async def close_window(
        self, caller: api.Caller, request: api.WindowCloseRequest
    ) -> None:
        """Not here: the viewer does it.  Raises RefusedError."""
        del caller, request
        _refuse("this broker is a host: it has no screen", "type it on its viewer")

    async def pending(self) -> api.PendingAnswer:
        """Not here: the viewer does it.  Raises RefusedError."""
        _refuse(
            "this broker is a host: it asks no questions",
            "type it on its viewer, where the person is",
        )

    async def answer(
        self, caller: api.Caller, request: api.QuestionAnswerRequest
    ) -> None:
        """Not here: the viewer does it.  Raises RefusedError."""
        del caller, request
        _refuse(
            "this broker is a host: it asks no questions",
            "type it on its viewer, where the person is",
        )

    async def grants(self) -> api.GrantsAnswer:
        """Not here: the viewer does it.  Raises RefusedError."""
        _refuse(
            "this broker is a host: it asks no questions",
            "type it on its viewer, where the person is",
        )

    async def revoke(
        self, caller: api.Caller, request: api.GrantRevokeRequest
    ) -> api.GrantsAnswer:
        """Not here: the viewer does it.  Raises RefusedError."""
        del caller, request
        _refuse(
            "this broker is a host: it asks no questions",
            "type it on its viewer, where the person is",
        )

    async def clipboard(self) -> api.ClipboardStatus:
        """Not here: the viewer does it.  Raises RefusedError."""
        _refuse(
            "this broker is a host: it has no clipboard",
            "type it on its viewer, where the person is",
        )

    async def clear_clipboard(self, caller: api.Caller) -> None:
        """Not here: the viewer does it.  Raises RefusedError."""
        del caller
        _refuse(
            "this broker is a host: it has no clipboard",
            "type it on its viewer, where the person is",
        )

    async def choose_chords(self, caller: api.Caller) -> api.ClipboardStatus:
        """Not here: the viewer does it.  Raises RefusedError."""
        del caller
        _refuse(
            "this broker is a host: it has no clipboard",
            "type it on its viewer, where the person is",
        )


def _refuse(message: str, hint: str) -> NoReturn:
    raise RefusedError(message, hint=hint)
