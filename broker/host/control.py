"""Control methods of a host: leases, and hints for methods of other roles."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from broker.control import api
from broker.control.methods import Elsewhere
from broker.host.lease_requests import Leasing
from broker.services.control import (
    WITHOUT_DEVICES,
    WITHOUT_FOLDERS,
    WITHOUT_LAUNCHES,
    Shared,
    SharedControl,
)

_VIEWER = "type it on its viewer"
_PERSON = "type it on its viewer, where the person is"


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

    async def machine_event(
        self, request: api.MachineEventRequest
    ) -> api.MachineEventAnswer:
        """A launcher's hook reports a step of a machine of its own."""
        return await self._leasing.machine_event(request)

    async def release(
        self, caller: api.Caller, request: api.LeaseReleaseRequest
    ) -> None:
        """End a lease; a machine that is not ours lives on."""
        await self._leasing.release(caller, request)


_PROGRAMS = Elsewhere("this broker is a host: it runs no programs", _VIEWER)
_SCREEN = Elsewhere("this broker is a host: it has no screen", _VIEWER)
_QUESTIONS = Elsewhere("this broker is a host: it asks no questions", _PERSON)
_CLIPBOARD = Elsewhere("this broker is a host: it has no clipboard", _PERSON)
ELSEWHERE: Mapping[str, Elsewhere] = MappingProxyType(
    {
        "Run": Elsewhere(
            "this broker is a host: it starts no programs",
            "type 'brokerctl run {request.record}' on its viewer",
        ),
        "RunInput": _PROGRAMS,
        "RunResize": _PROGRAMS,
        "Open": Elsewhere("this broker is a host: it opens no files", _VIEWER),
        "Windows": _SCREEN,
        "WindowClose": _SCREEN,
        "Pending": _QUESTIONS,
        "Answer": _QUESTIONS,
        "GrantList": _QUESTIONS,
        "GrantRevoke": _QUESTIONS,
        "Clipboard": _CLIPBOARD,
        "ClipboardClear": _CLIPBOARD,
        "ClipboardChords": _CLIPBOARD,
        **WITHOUT_DEVICES,
        **WITHOUT_FOLDERS,
        **WITHOUT_LAUNCHES,
    }
)
"""The methods of a broker with a screen."""


class HostControl(LeaseControl, SharedControl):
    """The control methods of the host where host and viewer are two machines."""

    elsewhere = ELSEWHERE

    def __init__(self, shared: Shared, leasing: Leasing) -> None:
        super().__init__(shared)
        self._leasing = leasing
